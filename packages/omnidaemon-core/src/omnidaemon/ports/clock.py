"""The runtime's only source of time, so that tests can own it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Monotonic and wall time, and waiting on them."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards and count suspended time where the OS does."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        """Wait until ``event`` is set or ``timeout`` seconds have passed; return whether it is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return CLOCK_BOOTTIME where there is one: a suspended laptop must notice (D5)."""
        return time.clock_gettime(_BOOT) if _BOOT is not None else time.monotonic()

    def time(self) -> float:
        """Return the wall clock."""
        return time.time()

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        """Wait on the running loop's own timers."""
        if event.is_set() or timeout <= 0:
            return event.is_set()
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True


_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)
