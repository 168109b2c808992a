"""What a process does that exists to run a worker, and nothing that a library may do to its host."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Self

__all__ = ["StopSignals", "spare_the_collector"]


def spare_the_collector() -> None:
    """Have the garbage collector leave alone what the process keeps for good anyway.

    A worker makes many short-lived objects; each full collection would look through every module
    again. It cost a tenth of the drain.
    """
    gc.collect()
    gc.freeze()


class StopSignals:
    """SIGTERM and SIGINT in the main thread: the first asks, the second ends the process (L1).

    Python's own handlers, not the loop's: they run even while an agent blocks the loop.

    Args:
        on_first: Called in the signal handler: it may only tell other threads.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        self._on_first()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait for the first signal."""
        self._loop = asyncio.get_running_loop()
        if not self._asked:
            await self._event.wait()

    async def come_first(self, starting: Coroutine[Any, Any, None]) -> bool:
        """Await ``starting``, unless a signal comes first: then cancel it, and return whether that was so."""
        asked, started = asyncio.ensure_future(self.wait()), asyncio.ensure_future(starting)
        try:
            await asyncio.wait({started, asked}, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                await started
                return False
            # Told to stop while a backend is not reachable yet: there is nothing to drain.
            started.cancel()
            await asyncio.wait({started})
            return True
        finally:
            asked.cancel()
