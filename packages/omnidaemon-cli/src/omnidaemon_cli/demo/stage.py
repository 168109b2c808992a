"""What the demo needs around it and takes away again: a folder, configuration, and the worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Stage"]

_OURS = ("OMNIDAEMON_", "EVENT_BUS_TYPE", "STORAGE_BACKEND", "SQLITE_PATH", "REDIS_KEY_PREFIX")
_TARGET = "omnidaemon_cli.demo.agents:sdk"
_PATIENCE = 15.0


class Stage:
    """A temporary folder and ``omnidaemon run --workers 2`` in it; both are gone when the block ends."""

    def __enter__(self) -> Self:
        # A plain kill ends the block, too.
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.folder = Path(tempfile.mkdtemp(prefix="omnidaemon-demo-")).resolve()
        for name in [name for name in os.environ if name.startswith(_OURS)]:
            del os.environ[name]
        os.environ |= {
            "EVENT_BUS_TYPE": "sqlite",
            "STORAGE_BACKEND": "sqlite",
            "SQLITE_PATH": str(self.folder / "demo.db"),
            "OMNIDAEMON_NAMESPACE": "demo",
            # The store takes long runs over from the bus at once, so that only the short lease is waited for.
            "OMNIDAEMON_ADOPT_AFTER": "0.5",
        }
        self._workers: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        return self

    def start(self, workers: int) -> None:
        """Start the worker processes, and a parent that restarts them."""
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "omnidaemon_cli", "run", _TARGET, "--workers", str(workers)]
        with (self.folder / "workers.log").open("wb") as log:
            self._workers = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--channel", str(theirs.fileno())],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        theirs.close()

    def log(self) -> str:
        """Return the end of what the workers have logged."""
        path = self.folder / "workers.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""

    def stop(self) -> int | None:
        """Let the workers drain and return the exit code of their parent, None if there is none."""
        if self._workers is None:
            return None
        self._workers.send_signal(signal.SIGTERM)
        try:
            code = self._workers.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._workers.kill()
            code = self._workers.wait()
        self._workers = None
        return code

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        # Nothing may interrupt the cleaning.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            self.stop()
            if self._channel is not None:
                self._channel.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, self._before)
