"""The command tree, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from omnidaemon_cli.commands import demo, dlq, doctor, health, run, task, version
from omnidaemon_cli.plugins import PluginGroup

__all__ = ["app", "run_app"]

FAILED, USAGE, NOT_FOUND = 1, 2, 3

app = typer.Typer(
    name="omnidaemon",
    cls=PluginGroup,
    no_args_is_help=True,
    add_completion=False,
    # Plain help: the same on a terminal and on a pipe, and nothing to load for it.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(run.run)
app.add_typer(task.app, name="task")
app.add_typer(dlq.app, name="dlq")
app.command()(health.health)
app.command()(doctor.doctor)
app.command()(version.version)


def _show_version(value: bool) -> None:
    if value:
        version.version(as_json=False)
        raise typer.Exit


@app.callback()
def root(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", "-v", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Run AI agents as durable, event-driven workers; publish to them, and see what they did.

    Every command but `run` takes --json. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found.
    """


def run_app(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        app(args=arguments, prog_name="omnidaemon")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception as error:
        # Imported only now: help and usage errors need nothing of it.
        from omnidaemon import InvalidEvent, OmniDaemonError, TaskNotFound

        if not isinstance(error, OmniDaemonError):
            raise
        code = NOT_FOUND if isinstance(error, TaskNotFound) else USAGE if isinstance(error, InvalidEvent) else FAILED
        if "--json" in arguments:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return code
    return 0
