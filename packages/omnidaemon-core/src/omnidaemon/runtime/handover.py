"""Batched hand-over between the agents' loop and the I/O loop (design §3).

One wake-up call per batch each way: a hop for every event would cost the drain.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Handover", "InlineHandover", "Mailbox", "ThreadHandover"]

T = TypeVar("T")


class Mailbox:
    """Items for a loop, delivered as lists; ``put`` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[list[Any]], None]) -> None:
        self._loop, self._receive = loop, receive
        self._items: collections.deque[Any] = collections.deque()
        self._lock = threading.Lock()
        self._scheduled = False

    def put(self, *items: Any) -> None:
        """Add items; the loop gets them with its next turn."""
        self.put_all(items)

    def put_all(self, items: Sequence[Any]) -> None:
        """Add a batch of items."""
        with self._lock:
            self._items.extend(items)
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            return  # the loop has been closed: nobody is left to receive

    def _drain(self) -> None:
        with self._lock:
            items, self._items = list(self._items), collections.deque()
            self._scheduled = False
        self._receive(items)


class Handover(Protocol):
    """Knows where agents run and where I/O runs."""

    app_loop: asyncio.AbstractEventLoop
    io_loop: asyncio.AbstractEventLoop

    async def call_io(self, work: Coroutine[Any, Any, T]) -> T:
        """Await, in the agents' loop, something that runs in the I/O loop."""
        ...

    def stop(self) -> None:
        """Let the I/O loop end."""
        ...


class InlineHandover:
    """Both loops are one: for simulations, and for tests that own the clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.app_loop = self.io_loop = loop

    async def call_io(self, work: Coroutine[Any, Any, T]) -> T:
        """Just await it."""
        return await work

    def stop(self) -> None:
        """Nothing to stop."""


class ThreadHandover:
    """Runs the I/O loop in a thread of its own, so that a blocking agent cannot stop it (D4)."""

    def __init__(self, app_loop: asyncio.AbstractEventLoop) -> None:
        self.app_loop = app_loop
        self.io_loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="omnidaemon-io", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.io_loop)
        try:
            self.io_loop.run_forever()
        finally:
            self.io_loop.run_until_complete(self.io_loop.shutdown_asyncgens())
            self.io_loop.close()

    async def call_io(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the I/O loop and wait for it here."""
        if asyncio.get_running_loop() is self.io_loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.io_loop))

    def stop(self) -> None:
        """End the loop and its thread; idempotent."""
        if self._thread.is_alive():
            self.io_loop.call_soon_threadsafe(self.io_loop.stop)
            self._thread.join()
