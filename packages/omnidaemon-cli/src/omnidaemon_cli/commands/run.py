"""``omnidaemon run``, as people read it; a correct call never comes here (see ``omnidaemon_cli.options``)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["run"]


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """How it is written."""

    TEXT = "text"
    JSON = "json"


def run(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:SDK", help="The SDK to run; a bare MODULE if it has only one.")
    ],
    *,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="How many processes.")] = 1,
    app_dir: Annotated[str | None, typer.Option(help="Where modules are looked for; else the current folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="End the pauses of these agents first.")] = False,
    log_level: Annotated[Level, typer.Option(case_sensitive=False, help="How much is logged to stderr.")] = Level.INFO,
    log_format: Annotated[Format, typer.Option(case_sensitive=False, help="A line of text or of JSON.")] = Format.TEXT,
) -> None:
    """Run the agents of an application.

    Until SIGTERM or SIGINT. The first signal drains: no more events are taken, running agents get the grace period
    to finish, and what they do not finish is handed back. A second signal ends at once. With several workers, dead
    ones are restarted.
    """
    from omnidaemon_cli.launch import launch
    from omnidaemon_cli.options import RunOptions

    options = RunOptions(target, workers, app_dir, resume, log_level.value, log_format.value)
    raise typer.Exit(launch(options))
