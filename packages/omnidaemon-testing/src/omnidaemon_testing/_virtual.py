"""An event loop whose time passes only while it has nothing to do: minutes of waiting in milliseconds.

For adapters in this process whose clock can be given, such as the memory ones. Time is a count of
steps and waits, so a run is the same however busy the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from omnidaemon.ports.clock import SystemClock

__all__ = ["LoopClock", "VirtualLoop"]

_EPOCH = 1_800_000_000.0
# What a step of the loop costs: without it, a task that polls without sleeping would stop time.
_STEP = 50e-6


class _Selector(selectors.DefaultSelector):
    """Skips the time that a loop would wait for its next timer."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0 if timeout is not None else None)
        self.skipped += _STEP if ready or not timeout else max(timeout, _STEP)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the loop's own seconds."""
        return 1000.0 + self._virtual.skipped

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002 - there is none
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Call ``func`` here and now: while a thread worked, this loop's time would fly."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it raises is the awaiting side's
            future.set_exception(error)
        return future


class LoopClock(SystemClock):
    """The clock of whatever loop is running."""

    def monotonic(self) -> float:
        """Return the running loop's time."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Return the running loop's time as seconds since the epoch."""
        return _EPOCH + asyncio.get_running_loop().time()
