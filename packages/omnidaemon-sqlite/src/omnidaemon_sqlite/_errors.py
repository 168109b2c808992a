"""What SQLite says, as errors of the ports: what happened, to which file, what to do."""

from __future__ import annotations

import sqlite3
from typing import Final

from omnidaemon.model.errors import BackendUnavailable, ConfigurationError, OmniDaemonError

__all__ = ["CommitUnknown", "not_usable", "translate"]


class CommitUnknown(BackendUnavailable):
    """The disk failed while a transaction was committed: it may have been stored or not."""


# By primary result code. The first text is for opening, the second for later.
_SETTING: Final = "SQLITE_PATH"
_TEXTS: Final = {
    sqlite3.SQLITE_BUSY: "another process has not let go of the database in time: look for one that is stopped",
    sqlite3.SQLITE_LOCKED: "another process has not let go of the database in time: look for one that is stopped",
    sqlite3.SQLITE_FULL: "the disk is full, nothing was stored: free space on its volume",
    sqlite3.SQLITE_READONLY: "the file cannot be written: make it and its folder writable for this user",
    sqlite3.SQLITE_PERM: "access was refused: make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: look whether its folder is there and is writable",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: move it away",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: stop all its processes and restore a copy",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write: look at the system's log",
}
_LASTING: Final = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
    }
)


def translate(error: Exception, path: str, *, opening: bool = False, committing: bool = False) -> Exception:
    """Return the port's error for what SQLite or the file system raised; others are returned as they are.

    While opening, what trying again will not cure is a ``ConfigurationError``.
    """
    if isinstance(error, OmniDaemonError):
        return error
    if isinstance(error, OSError):
        return not_usable(path, error.strerror or str(error)) if opening else BackendUnavailable(f"{path}: {error}")
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = _TEXTS.get(code)
    if opening and code in _LASTING and text is not None:
        return not_usable(path, text)
    message = f"{path}: {text} ({error})" if text is not None else f"{path}: {error}"
    if committing and code == sqlite3.SQLITE_IOERR:
        return CommitUnknown(message)
    return BackendUnavailable(message)


def not_usable(path: str, text: str) -> ConfigurationError:
    """Return the error for a file that cannot serve, with what can be done in any case."""
    return ConfigurationError(f"{path} cannot be used: {text}; or choose another file ({_SETTING})")
