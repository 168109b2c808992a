"""The harness: a private Redis server, and every contestant a process of its own under a watchdog."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import redis

from benchmarks.child import Job, Sample
from services import redis as redis_service
from services._process import Process, new_folder

T = TypeVar("T")
_BINARY = "redis-server"
_LIMIT = 180.0
_POLL = 0.005
# Runs what follows and notes when: the start of a process is its exec, not the fork of the harness.
_STAMP = "import os,sys,time;open(sys.argv[1],'w').write(str(time.monotonic_ns()));os.execvp(sys.argv[2],sys.argv[2:])"


class BenchError(RuntimeError):
    """A contestant failed or took too long; the message holds the end of its output."""


class Running:
    """A process of ours, its log, and when it was started."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        """Start ``command`` in ``folder``."""
        self.name, self.folder = name, folder
        self.log = folder / f"{name}.log"
        self._stamp = folder / f"{name}.started"
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        launcher = [sys.executable, "-I", "-S", "-c", _STAMP, str(self._stamp)]
        self.process = Process([*launcher, "env", *variables, *command], self.log)

    @property
    def started_ns(self) -> int:
        """The monotonic clock at its exec."""
        return int(self._stamp.read_text())

    def wait_for(self, what: str, look: Callable[[], T | None], limit: float = _LIMIT) -> T:
        """Look again and again until there is something; fail when the process ends or time is up."""
        end = time.monotonic() + limit
        while (found := look()) is None or found is False:
            if not self.process.alive() and ((found := look()) is None or found is False):
                raise BenchError(f"{self.name} ended before {what}:\n{self.tail()}")
            if time.monotonic() > end:
                raise BenchError(f"{self.name}: no {what} within {limit:.0f} s:\n{self.tail()}")
            time.sleep(_POLL)
        return found

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-1500:].strip() or "(no output)"

    def stop(self) -> None:
        """End it, by force after ten seconds."""
        self.process.stop(10.0)


class Bench:
    """Server, folder and size of a run."""

    def __init__(self, events: int) -> None:
        """Start the server."""
        path = shutil.which(_BINARY)
        if path is None:
            raise BenchError(f"{_BINARY} is not on PATH (apt-get install -y redis-server); wheels lack jemalloc")
        os.environ.setdefault(redis_service.BINARY_VARIABLE, path)
        here = str(Path(__file__).parents[1])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
        self.events = events
        self.folder = new_folder("bench")
        self.server = redis_service.RedisServer(auto_aof_rewrite_percentage=0, maxmemory_policy="noeviction").start()
        self.client: redis.Redis = self.server.client(socket_timeout=60)
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        """As it is."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.client.close()
        self.server.stop()

    def reset(self) -> None:
        """Empty the server: its data, its file and its spare memory."""
        self.client.flushall(asynchronous=False)
        self.client.config_set("appendonly", "no")
        self.client.config_set("appendonly", "yes")
        while self._rewriting():
            time.sleep(_POLL)
        self.client.memory_purge()

    def _rewriting(self) -> bool:
        state: Any = self.client.info("persistence")
        return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])

    def begin(self, module: str, mode: str, events: int | None = None, size: int = 400, **more: Any) -> Contestant:
        """Start a contestant."""
        count = self.events if events is None else events
        name = f"{next(self._numbers)}-{module}-{mode}"
        out = str(self.folder / f"{name}.json")
        return Contestant(
            name, module, Job(mode, self.server.url, self.server.pid, count, out, size, more), self.folder
        )

    def run(self, module: str, mode: str, **options: Any) -> Sample:
        """Run a contestant to its end."""
        with self.begin(module, mode, **options) as contestant:
            return contestant.sample()

    @contextlib.contextmanager
    def command(
        self, name: str, command: list[str], environment: dict[str, str], *, gently: bool = True
    ) -> Iterator[Running]:
        """Run any command for the time of the block."""
        running = Running(f"{next(self._numbers)}-{name}", command, self.folder, environment)
        try:
            yield running
        finally:
            if gently:
                running.stop()
            else:
                running.process.kill()


class Contestant(Running):
    """A module of `benchmarks.contestants` at work."""

    def __init__(self, name: str, module: str, job: Job, folder: Path) -> None:
        """Start it."""
        self._job = job
        arguments = json.dumps(dataclasses.asdict(job))
        super().__init__(name, [sys.executable, "-m", f"benchmarks.contestants.{module}", arguments], folder)

    def __enter__(self) -> Self:
        """As it is."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    def ready(self) -> None:
        """Wait until it says that publishing may begin."""
        self.wait_for("word that it is ready", lambda: Path(f"{self._job.out}.ready").exists() or None)

    def sample(self) -> Sample:
        """Wait for what it measured."""
        path = Path(self._job.out)
        self.wait_for("a result", lambda: path.exists() or None)
        sample: Sample = json.loads(path.read_text())
        return sample
