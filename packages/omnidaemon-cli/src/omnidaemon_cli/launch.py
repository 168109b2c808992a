"""From the options of ``omnidaemon run`` to a worker in this process, or to a parent of several."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omnidaemon_cli.options import RunOptions

__all__ = ["launch", "load_environment"]


def launch(options: RunOptions) -> int:
    """Run until stopped and return the exit code."""
    if options.workers > 1:
        from omnidaemon_cli.parent import Parent

        return Parent(options).run()
    load_environment()
    # Before anything of omnidaemon is imported, so that an `omnidaemon` in the application's folder is not ours.
    folder = str(Path(options.app_dir or ".").resolve())
    from omnidaemon_cli import worker

    sys.path.insert(0, folder)
    return worker.run(options, folder)


def load_environment() -> list[str]:
    """Read ``.env`` of the current folder; real variables win. Returns the names that it set."""
    path = Path(".env")
    if not path.is_file():
        return []
    from dotenv import load_dotenv

    before = set(os.environ)
    load_dotenv(path, override=False)
    return sorted(set(os.environ) - before)
