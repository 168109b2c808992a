"""Commands of other packages: the entry point group ``omnidaemon.cli``, each a ``typer.Typer``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import typer
import typer.core
import typer.main

__all__ = ["GROUP", "PluginGroup"]

GROUP = "omnidaemon.cli"


class PluginGroup(typer.core.TyperGroup):
    """Mounts each of them under its name; only the one that is called is loaded."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of ours, else the installed one of that name, else None."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        points = [point for point in importlib.metadata.entry_points(group=GROUP) if point.name == cmd_name]
        return _load(points) if points else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List our commands, and the installed ones without loading them."""
        super().format_commands(ctx, formatter)
        points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
        if points:
            with formatter.section("Installed commands"):
                formatter.write_dl([(name, f"of {_owner(point)}") for name, point in sorted(points.items())])


def _load(points: list[importlib.metadata.EntryPoint]) -> Any:
    from omnidaemon import ConfigurationError

    name = points[0].name
    if len({point.value for point in points}) > 1:
        owners = ", ".join(sorted(_owner(point) for point in points))
        raise ConfigurationError(f"the command {name!r} is claimed by {owners}; uninstall all but one")
    try:
        loaded = points[0].load()
    except Exception as error:
        raise ConfigurationError(
            f"the command {name!r} of {_owner(points[0])} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(loaded, typer.Typer):
        raise ConfigurationError(
            f"the command {name!r} of {_owner(points[0])} is a {type(loaded).__name__} and no typer.Typer"
        )
    return typer.main.get_group(loaded)


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return point.value if point.dist is None else point.dist.name
