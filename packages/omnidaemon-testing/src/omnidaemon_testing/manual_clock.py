"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import time

__all__ = ["ManualClock"]

# So many turns of the loop are enough for what a timer has woken to go to sleep again.
_TURNS = 30


class ManualClock:
    """See :class:`omnidaemon.ports.clock.Clock`; belongs to one event loop.

    Waiting on it takes no real time: it ends when the time is moved, and whoever waited looks whether
    its own time has come.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._waiting: list[asyncio.Event] = []

    def time(self) -> float:
        """Return the time that the test has set, as seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Return the same."""
        return self._now

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        """Wait until ``event`` is set or :meth:`jump` or :meth:`nudge` ends all waiting."""
        if event.is_set() or timeout <= 0:
            await asyncio.sleep(0)
            return event.is_set()
        alarm = asyncio.Event()
        self._waiting.append(alarm)
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(alarm.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return event.is_set()

    def jump(self, to: float) -> None:
        """Set the time and end all waiting: whoever waited looks at the new time."""
        self._now = max(self._now, to)
        self.nudge()

    def nudge(self) -> None:
        """End all waiting now, without letting time pass: whoever waited looks again."""
        waiting, self._waiting = self._waiting, []
        for alarm in waiting:
            alarm.set()

    @staticmethod
    async def settle() -> None:
        """Let other tasks run until they wait again."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
