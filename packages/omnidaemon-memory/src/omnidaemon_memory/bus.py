"""The EventBus port over a :class:`MemoryBroker`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from omnidaemon.model.errors import Closed
from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon.ports.event_bus import PORT_VERSION, BusCapabilities, EventBus, Scope, TopicInfo
from omnidaemon_memory.broker import MemoryBroker

__all__ = ["MemoryEventBus"]

_PAGE = 500


class MemoryEventBus:
    """An event bus in the memory of this process; nothing outlives it.

    Args:
        broker: The state to share; by default one of its own.
        clock: Source of all times.
        lease: Seconds after which a delivery that nobody extends is delivered again.
        max_event_bytes: What one event may hold.
        topic_max_bytes: Publishing raises ``BusFull`` when a topic holds so much that some group
            has not finished; None for no limit.
    """

    port_version = PORT_VERSION
    capabilities = BusCapabilities(
        name="memory",
        durability="process",
        scope="process",
        ordered_by_key=True,
        history=True,
        history_by_time=True,
        trim=True,
        late_groups=True,
        exact_lag=True,
        redelivery="idle",
        notes={"restartable": "it lives and dies with the process"},
    )

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        *,
        clock: Clock | None = None,
        lease: float = 15.0,
        max_event_bytes: int = 1 << 20,
        topic_max_bytes: int | None = None,
    ) -> None:
        self.broker = MemoryBroker() if broker is None else broker
        self.capabilities = replace(type(self).capabilities, max_event_bytes=max_event_bytes)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._lease = lease
        self._topic_max_bytes = topic_max_bytes
        self._reader: str | None = None
        self._waiting: set[asyncio.Event] = set()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened bus; all of one process and namespace share their events."""
        return cls(
            MemoryBroker.named(settings.get("namespace") or "omni"),
            lease=settings.get("lease") or 15.0,
            topic_max_bytes=settings.get("topic_max_bytes"),
        )

    def __repr__(self) -> str:
        return f"MemoryEventBus({'closed' if self._reader is None else 'open'})"

    @property
    def location(self) -> str:
        """Where it is: nowhere that could be named."""
        return "memory of this process"

    @property
    def scope(self) -> Scope:
        """From where it can be reached."""
        return "process"

    def twin(self, *, lease: float | None = None) -> Self:
        """Return an unopened bus over the same broker."""
        return type(self)(
            self.broker,
            clock=self._clock,
            lease=self._lease if lease is None else lease,
            max_event_bytes=self.capabilities.max_event_bytes,
            topic_max_bytes=self._topic_max_bytes,
        )

    async def open(self) -> None:
        """Begin; what an earlier opening was handed is another reader's."""
        if self._reader is None:
            self._reader = uuid.uuid4().hex

    async def close(self) -> None:
        """End; reads that still wait return nothing."""
        self._reader = None
        for event in self._waiting:
            event.set()

    async def ping(self) -> None:
        """Do nothing but check that it is open."""
        self._opened("ping")

    async def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """See the port.

        Raises:
            ConfigurationError: A start is a position that this bus never gave.
        """
        self._opened("ensure")
        self.broker.ensure(topic, groups)

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:  # noqa: ARG002 - nothing to wait for
        """See the port."""
        self._opened("publish")
        return self.broker.publish(batch, self._clock.time(), self.capabilities.max_event_bytes, self._topic_max_bytes)

    async def read(self, want: Mapping[Group, int], wait: float) -> list[Delivery]:
        """See the port."""
        reader = self._opened("read")
        await asyncio.sleep(0)  # a busy reader must not starve its loop
        deadline = self._clock.monotonic() + wait
        with self.broker.listen(frozenset(group.topic for group in want)) as event:
            self._waiting.add(event)
            try:
                while self._reader == reader:
                    event.clear()
                    now = self._clock.time()
                    deliveries, due = self.broker.take(want, reader, now, self._lease)
                    left = deadline - self._clock.monotonic()
                    if deliveries or left <= 0:
                        return deliveries
                    await self._clock.wait(event, left if due is None else min(left, due - now))
            finally:
                self._waiting.discard(event)
        return []

    async def ack(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        self._opened("ack")
        self.broker.ack(batch)

    async def extend(self, batch: Sequence[Delivery]) -> list[bool | None]:
        """See the port."""
        return self.broker.extend(batch, self._opened("extend"), self._clock.time() + self._lease)

    async def give_back(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        self.broker.give_back(batch, self._opened("give_back"), self._clock.time())

    async def history(self, topic: str, start: Start, end: Start) -> AsyncIterator[tuple[str, bytes]]:
        """See the port. Both ends are inclusive.

        Raises:
            ConfigurationError: An end is a position that this bus never gave.
        """
        self._opened("history")
        cursor, last = self.broker.bounds(topic, start, end)
        while page := self.broker.page(topic, cursor, last, _PAGE):
            for entry in page:
                yield str(entry.position), entry.body
            cursor = page[-1].position

    async def trim(self, topic: str, before: float) -> int:
        """See the port."""
        self._opened("trim")
        return self.broker.trim(topic, before)

    async def info(self, topic: str) -> TopicInfo:
        """See the port."""
        self._opened("info")
        return self.broker.info(topic)

    async def topics(self) -> list[str]:
        """See the port."""
        self._opened("topics")
        return self.broker.topics()

    async def delete(self, what: Group | str) -> int:
        """See the port. No event goes with a group."""
        self._opened("delete")
        return self.broker.delete(what)

    def _opened(self, operation: str) -> str:
        if self._reader is None:
            raise Closed(f"MemoryEventBus.{operation}: the bus is not open, call open() first")
        return self._reader


if TYPE_CHECKING:
    _: type[EventBus] = MemoryEventBus
