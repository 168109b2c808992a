"""The lock that lets one process at a time write (brokers.md: SQLite before 3.51.3 can corrupt a WAL otherwise)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Generator

from omnidaemon.model.errors import BackendUnavailable
from omnidaemon_sqlite._errors import not_usable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Gate"]

AFFECTED = sqlite3.sqlite_version_info < (3, 51, 3)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.00005, 0.001


class Gate:
    """A lock on a file beside the database, held around each write transaction, commit and close.

    An SQLite that has been mended takes it too: the other process may be an older one. It is polled
    and not waited for, so that a stopped process costs a time-out and not a hanging thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._works = True

    def close(self) -> None:
        """Let go of the lock's file; it stays, because others may be waiting on it."""
        os.close(self._file)

    @contextlib.contextmanager
    def held(self, timeout: float) -> Generator[None]:
        """Hold the lock.

        Raises:
            BackendUnavailable: Another process has held it for longer than ``timeout`` seconds.
            ConfigurationError: The file system cannot lock, and this SQLite needs it.
        """
        self._acquire(timeout)
        try:
            yield
        finally:
            if self._works:
                _unlock(self._file)

    def _acquire(self, timeout: float) -> None:
        deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
        while self._works:
            try:
                _lock(self._file)
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise BackendUnavailable(
                        f"{self._path}: another process has held the database for {timeout:g} s: look for one that"
                        " is stopped"
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except OSError as error:
                if AFFECTED:
                    raise not_usable(self._path, f"its file system cannot lock ({error.strerror})") from None
                self._works = False
            else:
                return


if sys.platform == "win32":

    def _lock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
