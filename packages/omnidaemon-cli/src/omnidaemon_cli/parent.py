"""The parent of ``omnidaemon run --workers N``: starts processes, restarts dead ones, forwards signals.

It loads nothing of OmniDaemon and touches neither bus nor store, so there is little in it that can fail.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

from omnidaemon_cli.logs import announce_event
from omnidaemon_cli.options import RunOptions

__all__ = ["Parent"]

_PAUSE_FIRST, _PAUSE_LAST = 0.2, 30.0
# A process that lived so long has proved that it can.
_HEALTHY_AFTER = 60.0


@dataclass(slots=True)
class Child:
    """One worker process and how often it has died lately."""

    slot: int
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    ready: bool = False
    started: float = 0.0
    deaths: int = 0
    restart_at: float | None = None


class Parent:
    """Keeps N worker processes alive until it is told to stop."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._children = [Child(slot) for slot in range(1, options.workers + 1)]
        self._signals: list[int] = []
        self._stopping = False
        self._code = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Run until stopped and return the exit code: 0 if every process drained."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._note)
        self._selector.register(reader, selectors.EVENT_READ)
        if self._options.channel is not None:
            # Whoever started us ends us by ending himself.
            os.set_inheritable(self._options.channel, False)
            self._selector.register(self._options.channel, selectors.EVENT_READ)
        # The first one alone: a mistake in the configuration is then said once, and a new schema is made by one.
        self._start(self._children[0])
        try:
            while not self._ended():
                for key, _ in self._selector.select(self._pause()):
                    if key.fileobj is reader:
                        reader.recv(4096)
                    elif isinstance(key.data, Child):
                        self._heard(key.data)
                    else:
                        self._selector.unregister(key.fileobj)
                        self._stop()
                self._obey()
                self._look()
        finally:
            self._kill()
            self._selector.close()
            reader.close()
            writer.close()
        return self._code

    def _note(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _obey(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if self._stopping:
                self._say("stopping at once")
                self._kill()
                os._exit(128 + number)
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for child in self._children:
            child.restart_at = None
            if child.process is not None:
                child.process.send_signal(signal.SIGTERM)

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        first = child.slot == 1 and child.deaths == 0
        # A pause that was made meanwhile must stay: only the very first start resumes.
        options = dataclasses.replace(self._options, workers=1, channel=None, resume=self._options.resume and first)
        # -P: the current folder comes first for the application only, never for our own imports.
        command = [sys.executable, "-P", "-m", "omnidaemon_cli", "run", "--channel", str(theirs.fileno())]
        if not first:
            command.append("--quiet")
        child.process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, *options.arguments()],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Ctrl-C of a terminal reaches the parent only, which forwards it once.
            process_group=0,
        )
        theirs.close()
        child.channel, child.ready, child.started, child.restart_at = ours, False, time.monotonic(), None
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._say(f"worker {child.slot} has pid {child.process.pid}", slot=child.slot, worker_pid=child.process.pid)

    def _heard(self, child: Child) -> None:
        assert child.channel is not None  # noqa: S101 - it was selected
        if child.channel.recv(16):
            child.ready = True
            for other in self._children:
                if other.process is None and other.restart_at is None and not self._stopping:
                    self._start(other)
        else:
            self._forget(child)

    def _forget(self, child: Child) -> None:
        if child.channel is not None:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.channel = None

    def _look(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._buried(child, child.process.returncode, now)
            elif child.restart_at is not None and child.restart_at <= now:
                self._start(child)

    def _buried(self, child: Child, code: int, now: float) -> None:
        assert child.process is not None  # noqa: S101 - it has just ended
        pid, child.process = child.process.pid, None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        fields = {"slot": child.slot, "worker_pid": pid, "code": code}
        self._forget(child)
        if self._stopping:
            if code:
                self._code = 1
                self._say(f"worker {child.slot} (pid {pid}) did not stop well: {how}", **fields)
            return
        if not child.ready and child.deaths == 0 and child.slot == 1:
            # It has never worked, and has said why.
            self._code = code if code > 0 else 1
            self._stop()
            return
        child.deaths = 1 if child.ready and now - child.started > _HEALTHY_AFTER else child.deaths + 1
        pause = min(_PAUSE_LAST, _PAUSE_FIRST * 2 ** (child.deaths - 1))
        child.restart_at = now + pause
        self._say(f"worker {child.slot} (pid {pid}) ended ({how}); starting another in {pause:g} s", **fields)

    def _pause(self) -> float | None:
        due = [child.restart_at for child in self._children if child.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _ended(self) -> bool:
        return self._stopping and all(child.process is None for child in self._children)

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()

    def _say(self, text: str, **fields: object) -> None:
        announce_event(self._options.log_format, text, **fields)
