"""Publish-to-start latency: an even stream of events, stamped with the clock that all processes share."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.child import Job, Sample
from benchmarks.payload import content

RATE = 200
"""Events a second."""
_WARM_UP = RATE // 2


async def publish_evenly(job: Job, publish: Callable[[dict[str, Any]], Awaitable[object]]) -> Sample:
    """Publish so many events a second, each with the time at which its publishing began."""
    took: list[int] = []
    began = time.monotonic()
    for number in range(job.events + _WARM_UP):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        sent = time.monotonic_ns()
        await publish(content(number, job.size, sent=sent))
        took.append(time.monotonic_ns() - sent)
    return {"publish_p50": statistics.median(took) / 1e6}


class Latencies:
    """Collects starts; the first half second does not count."""

    def __init__(self, job: Job) -> None:
        """Expect what `publish_evenly` sends for the same job."""
        self.complete = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._expected = job.events + _WARM_UP
        self._all: list[int] = []

    def start(self, received: dict[str, Any]) -> None:
        """A handler starts with this content."""
        self._all.append(time.monotonic_ns() - received["sent"])
        if len(self._all) == self._expected:
            self._loop.call_soon_threadsafe(self.complete.set)

    def sample(self) -> Sample:
        """Percentiles in milliseconds."""
        cuts = statistics.quantiles(self._all[_WARM_UP:], n=100)
        return {"p50": cuts[49] / 1e6, "p99": cuts[98] / 1e6}
