"""``omnidaemon demo``."""

from __future__ import annotations

import typer

from omnidaemon_cli.output import AsJson

__all__ = ["demo"]


def demo(*, as_json: AsJson = False) -> None:
    """Watch agents survive a crash, a failure and a dead letter.

    It takes a few seconds, on SQLite in a temporary folder.

    Every line is read back from the event bus or the store. Nothing is left behind.
    """
    from omnidaemon_cli.demo.play import play

    raise typer.Exit(play(as_json=as_json))
