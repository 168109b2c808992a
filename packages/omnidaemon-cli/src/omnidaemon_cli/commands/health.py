"""``omnidaemon health``."""

from __future__ import annotations

import sys
from typing import Any

import typer

from omnidaemon_cli.output import AsJson, clean, emit, line, moment, pairs, table
from omnidaemon_cli.session import with_sdk

__all__ = ["health"]


def health(*, as_json: AsJson = False) -> None:
    """Show whether work goes on.

    That is: backends, workers by their heartbeats, agents and what waits for them. The status is running, stopped
    (agents without a worker), ready (no agent yet), degraded or down. Exit code 1 only when it is down.
    """
    shown = with_sdk(lambda sdk: sdk.health())
    down = shown["status"] == "down"
    if down and not as_json:
        print(clean(f"down: {shown['error']}"), file=sys.stderr)
    else:
        emit(shown, as_json, lambda: _show(shown))
    if down:
        raise typer.Exit(1)


def _show(shown: dict[str, Any]) -> None:
    storage = shown["storage_status"]
    pairs(
        [
            ("status", shown["status"]),
            ("event bus", f"{shown['event_bus_type']}, connected"),
            ("store", f"{storage['backend']}, {storage['latency_ms']:g} ms, {storage['location']}"),
            ("workers", len(shown["workers"])),
            ("agents", shown["registered_agents_count"]),
        ]
    )
    if shown["workers"]:
        line()
        table(
            ("worker", "pid", "running", "state", "seen"),
            (
                (
                    worker["worker"],
                    worker["pid"],
                    worker["running"],
                    "stopping" if worker["stopping"] else "running",
                    moment(worker["at"]),
                )
                for worker in shown["workers"]
            ),
        )
    if shown["agent_health"]:
        line()
        states = {
            f"{agent['topic']}/{agent['name']}": agent["state"] for same in shown["agents"].values() for agent in same
        }
        table(
            ("topic/agent", "state", "served", "lag", "pending", "inbox", "asks", "dead letters"),
            (
                (
                    name,
                    states.get(name),
                    "yes" if agent["healthy"] else "no",
                    _figure(agent["lag"]),
                    _figure(agent["pending"]),
                    agent["inbox"],
                    agent["waiting"],
                    agent["dead_letters"],
                )
                for name, agent in shown["agent_health"].items()
            ),
        )
    for warning in shown["warnings"]:
        line()
        line(f"warning: {warning}", style="yellow")


def _figure(value: Any) -> str:
    """Say of an inexact figure that it is one."""
    if isinstance(value, dict):
        return "unknown" if value["value"] is None else f"about {value['value']}"
    return "unknown" if value is None else str(value)
