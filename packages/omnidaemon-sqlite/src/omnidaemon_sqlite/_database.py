"""Opening and closing a database file; blocking, for the thread of an :class:`OpenFile`."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from omnidaemon.model.errors import BackendUnavailable
from omnidaemon_sqlite._errors import not_usable
from omnidaemon_sqlite._gate import Gate
from omnidaemon_sqlite._schema import migrate

__all__ = ["Database"]

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"})


class Database:
    """One connection to one file.

    Args:
        path: Absolute path; the file and its folder are made, readable for this user only.
        timeout: Seconds to wait for other processes when writing.
        connect_timeout: Seconds to wait for them while opening.

    Raises:
        ConfigurationError: The file cannot serve as a database.
        BackendUnavailable: Another process does not let go of it.
    """

    def __init__(self, path: str, timeout: float, connect_timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        _refuse_network(path)
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if Path(path).is_dir():
            raise not_usable(path, "it is a folder")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self.gate = Gate(path)
        try:
            self.connection = sqlite3.connect(
                path, timeout=connect_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            with self.gate.held(connect_timeout):
                self._prepare()
            self.connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
            self._identity = _identity(path)
        except BaseException:
            if hasattr(self, "connection"):
                self.connection.close()
            self.gate.close()
            raise

    def _prepare(self) -> None:
        connection = self.connection
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise not_usable(self.path, f"its file system does not allow a write-ahead log (journal mode {mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32000")
        connection.execute("PRAGMA temp_store = MEMORY")
        # A checkpoint syncs both files: every 16 MiB of log instead of every 4.
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        migrate(connection, self.path)

    def check_identity(self) -> None:
        """Raise ``BackendUnavailable`` if the file was deleted or replaced: what is written would be lost."""
        if _identity(self.path) != self._identity:
            raise BackendUnavailable(
                f"{self.path}: the file was deleted or replaced while it was open: restart the processes that use it"
            )

    def close(self) -> None:
        """Close the connection: the last one writes the log back into the file."""
        try:
            with self.gate.held(self.timeout):
                self.connection.close()
        except BackendUnavailable:
            # Who holds the gate has the file open too, so this close writes nothing back.
            self.connection.close()
        finally:
            self.gate.close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once a transaction, and a Path costs more than the call
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_network(path: str) -> None:
    """Raise ``ConfigurationError`` where locks are known not to hold: on network file systems."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split(" ")[4].replace("\\040", " ")
        if len(mount) >= len(best) and (real + "/").startswith(mount.rstrip("/") + "/"):
            best, kind = mount, right.split(" ", 1)[0]
    if kind in _NETWORK:
        raise not_usable(path, f"{best} is a network file system ({kind}), where locks do not hold")
