"""The options of ``omnidaemon run``, and a quick way to read them.

Typer describes and checks them for people (:mod:`omnidaemon_cli.commands.run`); a worker that is started
correctly should not have to load it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["LEVELS", "RunOptions", "parse"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run and how.

    Attributes:
        target: ``MODULE:SDK``, or a bare ``MODULE`` with only one SDK in it.
        workers: How many processes.
        app_dir: The folder that modules are looked for in first; None for the current one.
        resume: End the pauses of the application's agents first.
        log_level: One of :data:`LEVELS`.
        log_format: ``text`` or ``json``.
        channel: File descriptor of the channel to the parent process, None without one.
        quiet: Another process has said already what was chosen.
    """

    target: str
    workers: int = 1
    app_dir: str | None = None
    resume: bool = False
    log_level: str = "info"
    log_format: str = "text"
    channel: int | None = None
    quiet: bool = False

    def arguments(self) -> list[str]:
        """Return the command line that :func:`parse` makes these options of; the channel excepted."""
        given = ["--log-level", self.log_level, "--log-format", self.log_format, "--workers", str(self.workers)]
        if self.app_dir is not None:
            given += ["--app-dir", self.app_dir]
        if self.resume:
            given.append("--resume")
        return [*given, "--", self.target]


class _NotPlainError(Exception):
    """Not simply a correct command line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _NotPlainError(message)


def parse(arguments: list[str]) -> RunOptions | None:
    """Return the options, or None for whatever Typer should answer: ``--help`` and mistakes."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("target")
    parser.add_argument("--workers", "-w", type=int, default=1)
    parser.add_argument("--app-dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--log-level", type=str.lower, choices=LEVELS, default="info")
    parser.add_argument("--log-format", type=str.lower, choices=FORMATS, default="text")
    # Between a parent and its worker processes only.
    parser.add_argument("--channel", type=int)
    parser.add_argument("--quiet", action="store_true")
    try:
        options = RunOptions(**vars(parser.parse_args(arguments)))
    except _NotPlainError:
        return None
    return options if options.workers >= 1 else None
