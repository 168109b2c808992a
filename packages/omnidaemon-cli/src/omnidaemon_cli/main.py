"""The entry of the ``omnidaemon`` command.

Imports nothing of ours at the top: a foreign ``omnidaemon`` may have taken the place of our package, and
``omnidaemon run`` must not carry what the other commands need.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

# Word for word as in omnidaemon.plugins, which cannot be imported when the foreign files lie over ours.
CURE = "pip uninstall -y omnidaemon && pip install --force-reinstall --no-deps omnidaemon-core omnidaemon-cli"
_FIRST_OF_OURS = (0, 2)


def main() -> None:
    """Run the command that ``sys.argv`` names and exit."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            # A terminal that cannot show a character is no reason to fail.
            reconfigure(errors="backslashreplace")
    foreign = _foreign_version()
    if foreign is not None:
        print(
            f"error: a foreign distribution called 'omnidaemon' (version {foreign}) is installed here; it writes into"
            f" the folder of ours. To get rid of it, run:\n  {CURE}",
            file=sys.stderr,
        )
        sys.exit(1)
    try:
        code = _dispatch(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        from omnidaemon_cli.options import parse

        options = parse(arguments[1:])
        if options is not None:
            from omnidaemon_cli.launch import launch

            return launch(options)
    # Help, mistakes, and every other command.
    from omnidaemon_cli.app import run_app

    return run_app(arguments)


def _foreign_version() -> str | None:
    """Return the version of the foreign distribution, None when there is none."""
    import importlib.metadata

    try:
        version = importlib.metadata.version("omnidaemon")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = tuple(int(part) if part.isdigit() else 0 for part in f"{version}.0".split(".")[:2])
    return version if numbers < _FIRST_OF_OURS else None
