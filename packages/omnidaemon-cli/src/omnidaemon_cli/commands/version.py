"""``omnidaemon version``."""

from __future__ import annotations

import importlib.metadata
import platform

from omnidaemon_cli.output import AsJson, emit

__all__ = ["packages", "version"]


def packages() -> dict[str, str]:
    """Return our installed packages with their versions."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.name or "").lower().replace("_", "-")
        if name.startswith("omnidaemon"):
            # The first one on the path is the one that is imported.
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def version(*, as_json: AsJson = False) -> None:
    """Print the version of every installed package."""
    installed = packages()
    document = {"version": installed["omnidaemon-cli"], "python": platform.python_version(), "packages": installed}

    def text() -> None:
        print(f"omnidaemon {document['version']} (Python {document['python']})")
        for name, number in installed.items():
            print(f"  {name} {number}")

    emit(document, as_json, text)
