"""Measures a drain inside the process that does it: from the first handler's start to the last acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from benchmarks.child import Job, Sample

MEGABYTE = 1_000_000


def cpu_of(pid: int) -> float:
    """CPU seconds of another process: to the nanosecond where the kernel tells, else in ticks."""
    nanoseconds = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    if nanoseconds:
        return nanoseconds / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def own_cpu() -> float:
    """CPU seconds of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Meter:
    """Counts handler starts; the first one opens the measured window, `sample` closes it."""

    def __init__(self, job: Job) -> None:
        """Be made on the loop that waits for `reached`."""
        self.count = 0
        self.reached = asyncio.Event()
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._began = (0.0, 0.0, 0.0)

    def hit(self) -> None:
        """A handler starts."""
        if not self.count:
            self._began = (time.perf_counter(), own_cpu(), cpu_of(self._job.redis_pid))
        self.count += 1
        if self.count == self._job.events:
            self._loop.call_soon_threadsafe(self.reached.set)

    async def acknowledged(self, client: Redis, stream: str, group: str) -> None:
        """Wait until all were handled and the group has nothing pending."""
        await self.reached.wait()
        while (await client.xpending(stream, group))["pending"]:  # noqa: ASYNC110 - happens in a server
            await asyncio.sleep(0.002)

    def sample(self) -> Sample:
        """The figures of the window that ends now. CPU is per 10,000 events."""
        seconds = time.perf_counter() - self._began[0]
        worker, server = own_cpu() - self._began[1], cpu_of(self._job.redis_pid) - self._began[2]
        per = 10_000 / self._job.events
        return {
            "seconds": seconds,
            "rate": self._job.events / seconds,
            "worker_cpu": worker * per,
            "redis_cpu": server * per,
            "rss": psutil.Process().memory_info().rss / MEGABYTE,
            "runs": self.count,
        }
