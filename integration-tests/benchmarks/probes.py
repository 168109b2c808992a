"""What is measured from outside a worker that ``omnidaemon run`` started: start, memory, takeover, idle agents."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench import Bench, Running
from benchmarks.child import Sample
from benchmarks.meter import MEGABYTE, cpu_of

_OURS = "omnidaemon_contestant"
_SETTLE = 2.0
_FEW = 10_000
"""More than the slow agent finishes while it is watched."""


@dataclass(frozen=True)
class Mark:
    """A line that the worker's agent wrote."""

    kind: str
    pid: int
    at_ns: int
    topic: str
    sent_ns: int


class Worker:
    """``omnidaemon run`` and the marks of its agents."""

    def __init__(self, running: Running, marks: Path) -> None:
        """Wrap a started process."""
        self.running, self._marks = running, marks

    def marks(self, kind: str) -> list[Mark]:
        """All marks of a kind until now."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in self._marks.read_text().splitlines()]
            return [Mark(k, int(pid), int(at), topic, int(sent)) for k, pid, at, topic, sent in lines if k == kind]
        return []

    def wait_mark(self, kind: str, count: int = 1, limit: float = 60.0) -> list[Mark]:
        """Wait for so many marks."""

        def look() -> list[Mark] | None:
            found = self.marks(kind)
            return found if len(found) >= count else None

        return self.running.wait_for(f"{count} mark(s) {kind!r}", look, limit)

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants."""
        top = psutil.Process(self.running.process.pid)
        return [top, *top.children(recursive=True)]

    def rss(self) -> float:
        """Resident memory of all of them, MB."""
        return float(sum(one.memory_info().rss for one in self.tree())) / MEGABYTE

    def cpu(self) -> float:
        """CPU seconds of all of them, ended children too."""
        times = [one.cpu_times() for one in self.tree()]
        ended = times[0].children_user + times[0].children_system
        return float(sum(one.user + one.system for one in times) + ended)


@contextlib.contextmanager
def worker(bench: Bench, mode: str, *, gently: bool = True, **variables: Any) -> Iterator[Worker]:
    """Run `benchmarks.app` in a mode for the time of the block."""
    script = Path(sys.executable).parent / "omnidaemon"
    found = str(script) if script.exists() else shutil.which("omnidaemon")
    command = [found] if found else [sys.executable, "-m", "omnidaemon_cli"]
    marks = bench.folder / f"marks-{time.monotonic_ns()}"
    environment = {"BENCH_MODE": mode, "BENCH_URL": bench.server.url, "BENCH_MARKS": str(marks)}
    environment |= {f"BENCH_{name.upper()}": str(value) for name, value in variables.items()}
    with bench.command(f"run-{mode}", [*command, "run", "benchmarks.app:sdk"], environment, gently=gently) as running:
        yield Worker(running, marks)


def start_and_memory(bench: Bench) -> Sample:
    """Process start to first event, then resident memory idle and after a drain."""
    bench.run(_OURS, "fill", events=1)
    with worker(bench, "noop", events=bench.events + 1) as one:
        first = one.wait_mark("first")[0]
        time.sleep(_SETTLE)
        idle, processes = one.rss(), len(one.tree())
        bench.run(_OURS, "fill")
        one.wait_mark("last")
        time.sleep(1.0)
        after = one.rss()
    return {
        "start": (first.at_ns - one.running.started_ns) / 1e9,
        "rss_idle": idle,
        "rss_after": after,
        "rss_growth": after - idle,
        "processes": processes,
    }


def backlog(bench: Bench) -> Sample:
    """Resident memory at the same work with few and with ten times the events of 1 kB waiting."""
    peaks = []
    for waiting in (_FEW, 10 * bench.events):
        bench.reset()
        bench.run(_OURS, "fill", events=waiting, size=1000)
        with worker(bench, "slow", gently=False) as one:
            one.wait_mark("first")
            seen = []
            for _ in range(16):
                time.sleep(0.5)
                seen.append(one.rss())
        peaks.append(max(seen))
    return {"rss": peaks[1], "rss_few": peaks[0], "growth": peaks[1] - peaks[0]}


def takeover(bench: Bench) -> Sample:
    """Five events held by a worker that is killed: seconds until the last runs elsewhere, default settings."""
    with worker(bench, "hold", gently=False) as victim:
        bench.run(_OURS, "fill", events=5)
        victim.wait_mark("start", 5)
        with worker(bench, "hold", gently=False) as heir:
            time.sleep(_SETTLE + random.uniform(0, 5))  # anywhere between two renewals of the lease
            os.killpg(victim.running.process.pid, signal.SIGKILL)
            killed = time.monotonic_ns()
            marks = heir.wait_mark("start", 5, limit=60)
    delays = [(mark.at_ns - killed) / 1e9 for mark in marks]
    return {"seconds": max(delays), "first": min(delays)}


def idle_agents(bench: Bench, agents: int = 1000, seconds: float = 10.0) -> Sample:
    """A thousand agents without events: CPU, connections, and the delay of a cold one's first event."""
    before = len(bench.client.client_list())
    with worker(bench, "many", agents=agents) as one:
        bench.run(_OURS, "fill", events=1, topic="bench.warm")
        ready = one.wait_mark("start")[0]
        time.sleep(2 * _SETTLE)
        began, worker_cpu, redis_cpu = time.monotonic(), one.cpu(), cpu_of(bench.server.pid)
        time.sleep(seconds)
        took = time.monotonic() - began
        worker_share = (one.cpu() - worker_cpu) / took * 100
        redis_share = (cpu_of(bench.server.pid) - redis_cpu) / took * 100
        connections = len(bench.client.client_list()) - before
        memory = one.rss()
        firsts = 20
        bench.run(_OURS, "warm-and-cold", events=firsts)
        marks = [mark for mark in one.wait_mark("start", 1 + 30 + 2 * firsts) if mark.sent_ns]
    warm = [(mark.at_ns - mark.sent_ns) / 1e6 for mark in marks if mark.topic == "bench.warm"][30:]
    cold = [(mark.at_ns - mark.sent_ns) / 1e6 for mark in marks if mark.topic != "bench.warm"]
    return {
        "start": (ready.at_ns - one.running.started_ns) / 1e9,
        "worker_percent": worker_share,
        "both_percent": worker_share + redis_share,
        "connections": connections,
        "rss": memory,
        "warm_ms": statistics.median(warm),
        "cold_ms": max(cold),
        "cold_later_ms": max(cold) - statistics.median(warm),
    }
