"""Server processes that are gone when the process that started them is, however that ended."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The kernel sends PR_SET_PDEATHSIG when the THREAD that forked ends, not the process. So all servers are started from
# one thread that lives as long as the process: a test may well call restart() from a short-lived one.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="services-spawner")

# A launcher instead of preexec_fn, which Python 3.12 warns about in a process with threads. The second look at the
# parent closes the gap between fork and prctl.
_LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_FOLDER_PREFIX = "omnidaemon-tests-"
_PORTS = range(15_000, 32_000)
"""Below the range the kernel takes ports for outgoing connections from, so that a restart finds its port free."""

_running: set[Process] = set()
_folders: list[Path] = []


class Process:
    """One server process in a process group of its own, with a log file."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Start ``command``; its output is appended to ``log``."""
        self.log = log
        self._popen = _spawner.submit(self._spawn, command).result()
        _running.add(self)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The server's process id (the launcher execs, so it is the same)."""
        return self._popen.pid

    def alive(self) -> bool:
        """Whether it runs (or is frozen)."""
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; no error if it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def stop(self, grace: float = 5.0) -> None:
        """Ask it to end, and kill it after ``grace`` seconds. Twice is fine."""
        if self.alive():
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                self.kill()
        _running.discard(self)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._popen.wait()
        _running.discard(self)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    choose = random.SystemRandom()
    for _ in range(200):
        port = choose.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    msg = f"no free port in {_PORTS}"
    raise OSError(msg)


def run_folder() -> Path:
    """The one temporary folder of this process; removed at its end."""
    if not _folders:
        _sweep()
        _folders.append(Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-")))
    return _folders[0]


def new_folder(name: str) -> Path:
    """A new folder for one server, inside the run's."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=run_folder()))


def _sweep() -> None:
    """Remove the folders of runs that were killed: theirs could not do it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        pid = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


@atexit.register
def stop_all() -> None:
    """End every server that is left and remove the folder."""
    for process in list(_running):
        process.kill()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
    _folders.clear()
