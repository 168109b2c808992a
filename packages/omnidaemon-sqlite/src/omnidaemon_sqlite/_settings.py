"""Which file the settings mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from omnidaemon.model.errors import ConfigurationError

__all__ = ["DEFAULT_PATH", "absolute", "path_of"]

DEFAULT_PATH = "./.omnidaemon/omnidaemon.db"


def path_of(settings: Mapping[str, Any]) -> str:
    """Return the path that ``url``, else SQLITE_PATH of ``environ``, names.

    Raises:
        ConfigurationError: A URL that names no file.
    """
    text = settings.get("url") or (settings.get("environ") or {}).get("SQLITE_PATH") or DEFAULT_PATH
    if not text.startswith("sqlite:"):
        return str(text)
    rest = text.removeprefix("sqlite:")
    if rest.startswith("///"):
        rest = rest.removeprefix("///")
    elif rest.startswith("//"):
        rest = ""  # a host
    if not rest:
        raise ConfigurationError(
            f"{text!r} names no file: write sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    return unquote(rest)


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a database file.

    Raises:
        ConfigurationError: SQLite's name for a database in memory, which no other process could see.
    """
    path = os.fspath(path)
    if path.startswith((":memory:", "file:")):
        raise ConfigurationError(f"{path!r} is no file: give a path, or use the adapters named 'memory'")
    return str(Path(path).expanduser().absolute())
