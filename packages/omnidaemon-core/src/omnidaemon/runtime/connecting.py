"""The first connection to a bus or store (L2)."""

from __future__ import annotations

import asyncio

from omnidaemon.model.errors import BackendUnavailable
from omnidaemon.ports.clock import Clock
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store

__all__ = ["connect"]


async def connect(opened: EventBus | Store, timeout: float, clock: Clock) -> None:
    """Open a bus or store, trying again for ``timeout`` seconds while it cannot be reached (L2).

    Raises:
        AccessDenied: At once.
        BackendUnavailable: After ``timeout`` seconds.
    """
    deadline, pause = clock.monotonic() + timeout, 0.1
    while True:
        try:
            await opened.open()
        except BackendUnavailable:
            if clock.monotonic() + pause >= deadline:
                raise
            await clock.wait(asyncio.Event(), pause)
            pause = min(2.0, pause * 2)
        else:
            return
