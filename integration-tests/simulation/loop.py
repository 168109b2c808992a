"""An event loop whose time jumps to the next timer, and processes in it that can be stopped and killed."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["PROCESS", "Deadlock", "Process", "SimClock", "VirtualLoop"]

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)
_RESOLUTION = 1e-9
_SPIN = 20_000


class Deadlock(AssertionError):
    """Nothing is left to happen, or nothing but spinning happens."""


class Process:
    """A simulated process: all callbacks whose context says so.

    Attributes:
        halted: ``""``, ``"stopped"`` (SIGSTOP: callbacks are kept until it goes on) or ``"dead"``.
        skew: Seconds that its wall clock is ahead.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop, self.name = loop, name
        self.halted = ""
        self.skew = 0.0
        self.held: list[_Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.ended_at: float | None = None
        self.thawed_at = float("-inf")
        self.disturbed_at = float("-inf")

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "main") -> asyncio.Task[Any]:
        """Run a coroutine as part of this process."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return self.loop.create_task(work, name=f"{self.name}/{name}", context=context)

    def stop(self) -> None:
        """As SIGSTOP."""
        if not self.halted:
            self.halted = "stopped"
            self.loop.halted += 1

    def go_on(self) -> None:
        """As SIGCONT."""
        if self.halted == "stopped":
            self.halted = ""
            self.loop.halted -= 1
            self.thawed_at = self.disturbed_at = self.loop.time()
            self.loop.resume(self.held)
            self.held = []

    def kill(self) -> None:
        """As SIGKILL: nothing of it runs any more, no ``finally`` either."""
        if self.halted != "dead":
            self.loop.halted += not self.halted
            self.halted = "dead"
            self.ended_at = self.loop.time()


class _Handle:
    """What ``call_soon`` and ``call_at`` return: as of asyncio, without what only its own loops need."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self, callback: Callable[..., object], args: Any, context: contextvars.Context | None, when: float
    ) -> None:
        self._callback, self._args, self._when = callback, args, when
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        """Do not call it."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """Return for when it was scheduled."""
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in order; when none is ready, time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._soon: collections.deque[_Handle] = collections.deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._serial = 0
        self.halted = 0
        self.turns = 0
        self.errors: list[dict[str, Any]] = []
        self.set_task_factory(_make_task)
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now

    def resume(self, handles: list[_Handle]) -> None:
        """Let callbacks that were held back run after those that are ready."""
        self._soon.extend(handles)

    def close(self) -> None:
        """Forget everything; what still waits never runs."""
        super().close()
        self._soon.clear()
        self._timers.clear()

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """Call it in the next turn; raises ``RuntimeError`` when the loop is closed."""
        if self.is_closed():
            raise RuntimeError("the loop is closed")
        handle = _Handle(callback, args, context, self._now)
        self._soon.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """Call it at that time; what has the same time is called in the order of these calls."""
        handle = _Handle(callback, args, context, when)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """Call it after a while."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        self._advance()
        ready = self._soon
        self.turns += len(ready)
        if self.turns > _SPIN:
            raise Deadlock(f"{_SPIN} callbacks at {self._now:.3f} and no end: something spins")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            if self.halted:
                process = context.get(PROCESS)
                if process is not None and process.halted:
                    process.held.append(handle)
                    continue
            try:
                context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as the loops of asyncio do
                self.call_exception_handler({"message": "a callback raised", "exception": error})

    def _advance(self) -> None:
        """Make ready what is due; without anything ready, jump to what is due next."""
        ready, timers = self._soon, self._timers
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock("no callback is ready and no timer runs")
            if timers[0][0] > self._now:
                self._now = timers[0][0]
                self.turns = 0
        end = self._now + _RESOLUTION
        while timers and timers[0][0] < end:
            ready.append(heapq.heappop(timers)[2])


def _make_task(loop: Any, work: Any, **kwargs: Any) -> Any:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **kwargs)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    context = kwargs.get("context")
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.tasks.append(task)
    return task


class SimClock:
    """The ``Clock`` port over a virtual loop; ``skew`` moves the wall clock only."""

    BASE = 1_700_000_000.0

    def __init__(self, loop: VirtualLoop, skew: Callable[[], float] = lambda: 0.0) -> None:
        self._loop, self._skew = loop, skew

    def monotonic(self) -> float:
        """Return the loop's time."""
        return self._loop._now

    def time(self) -> float:
        """Return the wall clock."""
        return self.BASE + self._loop._now + self._skew()

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        """Wait until the event is set or the time is over."""
        if event.is_set() or timeout <= 0:
            return event.is_set()
        waiter: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(timeout, _release, waiter)
        event._waiters.append(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            event._waiters.remove(waiter)
        return event.is_set()


def _release(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)
