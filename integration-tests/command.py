"""The `omnidaemon` command as a user has it: a process of its own, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidaemon import OmniDaemonSDK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

OMNIDAEMON = str(Path(sys.executable).parent / "omnidaemon")
_OURS = ("OMNIDAEMON_", "EVENT_BUS_TYPE", "STORAGE_BACKEND", "SQLITE_PATH", "REDIS_URL", "REDIS_KEY_PREFIX")


def until(look: Callable[[], Any], what: str, limit: float = 20) -> Any:
    """Look again and again until there is something to return."""
    end = time.monotonic() + limit
    while not (found := look()):
        assert time.monotonic() < end, f"within {limit:g} s there was no {what}"
        time.sleep(0.05)
    return found


@dataclass
class Command:
    """Runs it in ``folder``, without what this process's environment says of OmniDaemon."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, **variables: str) -> dict[str, str]:
        """What a process of it gets."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {**inherited, **self.variables, **variables}

    def __call__(
        self, *arguments: str, stdin: str | None = None, timeout: float = 30, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [OMNIDAEMON, *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            input=stdin or "",
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, **options: Any) -> str:
        """Run one command that must succeed and return what it printed."""
        done = self(*arguments, **options)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str, code: int = 0, **options: Any) -> Any:
        """Run one command with ``--json`` and return its document; nothing else may be printed."""
        done = self(*arguments, "--json", **options)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert done.stderr == "", done.stderr
        return json.loads(done.stdout)

    def ask(self, question: Callable[[OmniDaemonSDK], Awaitable[Any]]) -> Any:
        """Ask its SQLite file in this process, where the command itself is not what is tested: that is quicker."""
        url = f"sqlite:///{self.folder / '.omnidaemon' / 'omnidaemon.db'}"

        async def main() -> Any:
            async with OmniDaemonSDK(event_bus=url, store=url) as sdk:
                return await question(sdk)

        return asyncio.run(main())

    def publish(self, topic: str, *contents: Any) -> list[str]:
        """Publish events and return their ids."""
        return [event.id for event in self.ask(lambda sdk: sdk.publish_many([(topic, each) for each in contents]))]

    def finished(self, topic: str, content: Any) -> str:
        """Publish an event, wait until its agents have ended, and return its id."""

        async def work(sdk: OmniDaemonSDK) -> str:
            event = await sdk.publish(topic, content)
            await event.results(timeout=20)
            return event.id

        return str(self.ask(work))

    @contextlib.contextmanager
    def running(self, *arguments: str, **variables: str) -> Iterator[Running]:
        """Run it for the time of the block."""
        running = Running(self, arguments, variables)
        try:
            yield running
        finally:
            running.end()


class Running:
    """A process of the command that goes on; its stderr is a file."""

    def __init__(self, command: Command, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self._log = command.folder / f"stderr-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [OMNIDAEMON, *arguments],
                cwd=command.folder,
                env=command.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(encoding="utf-8")

    def said(self, text: str, times: int = 1) -> None:
        """Wait until it has written ``text`` so many times."""
        end = time.monotonic() + 20
        while self.log.count(text) < times:
            assert self.process.poll() is None or self.log.count(text) >= times, self.log
            assert time.monotonic() < end, f"no {times} x {text!r} in:\n{self.log}"
            time.sleep(0.02)

    def ready(self, workers: int = 1) -> None:
        """Wait until so many workers are ready."""
        self.said("worker ready", workers)

    def children(self) -> list[int]:
        """The worker processes of a parent."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(timeout)

    def end(self) -> None:
        """End it and its workers, by force if need be."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
