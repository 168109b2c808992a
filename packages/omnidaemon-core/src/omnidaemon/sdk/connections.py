"""Bus and store of the calling event loop: connected at first use, one pair for each loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.ports.clock import Clock
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store
from omnidaemon.runtime.connecting import connect

if TYPE_CHECKING:
    from omnidaemon.bootstrap import Chosen

__all__ = ["Connections", "Pair"]


@dataclass(slots=True)
class Pair:
    """An open bus and an open store, bound to one event loop."""

    bus: EventBus
    store: Store


class Connections:
    """Opens twins of the chosen backends; a publisher never makes a hop to another thread."""

    def __init__(self, choose: Callable[[], Chosen], clock: Clock, timeout: float = 5.0) -> None:
        self._choose, self._clock, self._timeout = choose, clock, timeout
        self._pairs: dict[asyncio.AbstractEventLoop, Pair] = {}
        self._opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    def here(self) -> Pair:
        """Return the pair of the running loop; raises ``Closed`` when there is none yet."""
        try:
            return self._pairs[asyncio.get_running_loop()]
        except (KeyError, RuntimeError):
            raise Closed("not connected in this event loop: use `async with sdk:` or await a method first") from None

    async def get(self) -> Pair:
        """Return the open pair of the running loop, connecting if need be."""
        loop = asyncio.get_running_loop()
        pair = self._pairs.get(loop)
        if pair is not None:
            return pair
        async with self._opening.setdefault(loop, asyncio.Lock()):
            if loop in self._pairs:
                return self._pairs[loop]
            for old in [known for known in self._pairs if known.is_closed()]:
                del self._pairs[old]
                self._opening.pop(old, None)
            chosen = self._choose()
            timeout = chosen.settings.connect_timeout
            pair = Pair(chosen.bus.twin(), chosen.store.twin())
            try:
                await connect(pair.bus, self._timeout if timeout is None else timeout, self._clock)
                await connect(pair.store, self._timeout if timeout is None else timeout, self._clock)
            except BaseException:
                await self._close(pair)
                raise
            self._pairs[loop] = pair
            return pair

    async def ping(self, part: EventBus | Store) -> None:
        """Ask one of the chosen backends, over the running loop's connection if there is one, whether it answers.

        Raises:
            BackendError: It does not, or cannot be reached.
        """
        pair = self._pairs.get(asyncio.get_running_loop())
        if pair is not None:
            await (pair.bus if part is self._choose().bus else pair.store).ping()
            return
        timeout, probe = self._choose().settings.connect_timeout, part.twin()
        try:
            await connect(probe, self._timeout if timeout is None else timeout, self._clock)
            await probe.ping()
        finally:
            await probe.close()

    async def close(self) -> None:
        """Close the pair of the running loop."""
        pair = self._pairs.pop(asyncio.get_running_loop(), None)
        if pair is not None:
            await self._close(pair)

    @staticmethod
    async def _close(pair: Pair) -> None:
        errors = []
        for part in (pair.bus, pair.store):
            try:
                await part.close()
            except BackendError as error:
                errors.append(error)
        if errors:
            raise errors[0]
