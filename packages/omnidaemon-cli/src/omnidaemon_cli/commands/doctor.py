"""``omnidaemon doctor``: what is configured, why, and whether it works."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from omnidaemon_cli.commands.version import packages
from omnidaemon_cli.launch import load_environment
from omnidaemon_cli.output import AsJson, emit, table
from omnidaemon_cli.session import with_sdk

if TYPE_CHECKING:
    from omnidaemon import OmniDaemonSDK
    from omnidaemon.ports.event_bus import EventBus
    from omnidaemon.ports.store import Store

__all__ = ["doctor"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``status`` is ``ok``, ``warning`` or ``failed``."""

    check: str
    status: str
    detail: str


def doctor(*, as_json: AsJson = False) -> None:
    """Check what is configured, why, and whether it works.

    Packages, settings, event bus, store and agents; exit code 1 if something has failed.
    """
    findings = [_packages()]
    from_file = load_environment()
    if from_file:
        findings.append(Finding(".env", "ok", f"sets {', '.join(from_file)}"))
    findings += with_sdk(_examine)
    failed = any(finding.status == "failed" for finding in findings)
    document = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
    emit(
        document,
        as_json,
        lambda: table(("check", "", ""), ((each.check, each.status, each.detail) for each in findings)),
    )
    if failed:
        raise typer.Exit(1)


def _packages() -> Finding:
    installed = packages()
    listed = ", ".join(f"{name} {number}" for name, number in installed.items())
    detail = f"Python {platform.python_version()}; {listed}"
    if len(set(installed.values())) > 1:
        return Finding("packages", "warning", f"not all of one version: {detail}")
    return Finding("packages", "ok", detail)


async def _examine(sdk: OmniDaemonSDK) -> list[Finding]:
    from omnidaemon import OmniDaemonError

    try:
        chosen = sdk.choose()
    except OmniDaemonError as error:
        return [Finding("configuration", "failed", str(error))]
    findings = [Finding("configuration", "warning", text) for text in chosen.warnings]
    for part in ("event_bus", "store"):
        opened = chosen.bus if part == "event_bus" else chosen.store
        # A fresh one, opened and closed for this check only.
        answers = await _answers(opened.twin())
        detail = f"{chosen.why[part]}: {opened.location} (reachable from one {opened.scope})"
        if answers is not None:
            detail += f"\n{answers}"
        findings.append(Finding(part.replace("_", " "), "ok" if answers is None else "failed", detail))
    findings.append(Finding("namespace", "ok", chosen.settings.namespace))
    if all(finding.status != "failed" for finding in findings):
        findings += await _agents(sdk)
    return findings


async def _answers(opened: EventBus | Store) -> str | None:
    """Return None if the backend answers, else what it says."""
    from omnidaemon import BackendError

    try:
        await opened.open()
        await opened.ping()
    except BackendError as error:
        return str(error)
    finally:
        await opened.close()
    return None


async def _agents(sdk: OmniDaemonSDK) -> list[Finding]:
    shown = await sdk.health()
    findings = [Finding("health", "warning", text) for text in shown["warnings"]]
    if shown["status"] == "down":
        return [Finding("health", "failed", shown["error"])]
    number, served = shown["registered_agents_count"], shown["healthy_agents_count"]
    detail = f"{shown['status']}: {number} agents registered, {served} served by {len(shown['workers'])} workers"
    return [Finding("health", "ok", detail), *findings]
