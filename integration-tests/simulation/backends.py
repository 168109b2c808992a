"""Bus and store as one process sees them: memory adapters behind lines on which faults strike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from omnidaemon.model.errors import PublishUncertain
from omnidaemon.model.run import (
    Ask,
    Delivery,
    DueWant,
    Grant,
    GrantKind,
    Group,
    Outcome,
    OutcomeKind,
    Outgoing,
    Receipt,
    Start,
)
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Due, Fusion, Store
from omnidaemon_memory import MemoryEventBus
from simulation.line import Line, Lost
from simulation.watch import WatchedStore

if TYPE_CHECKING:
    from simulation.loop import Process
    from simulation.world import World

__all__ = ["SimBus", "SimFusion", "SimStore"]

# Methods that take a sequence, and where.
_BATCHES = {"claim": 1, "renew": 0, "adopt": 0, "settle": 0, "defer": 0, "sent": 0}
_SINGLES = (
    *("open", "ping", "now", "enroll", "agents", "retire", "decide", "append", "follow", "note", "notes"),
    *("outbox", "records", "remove", "count", "forget", "metrics", "clear_metrics", "get", "put", "scan"),
)


class SimStore(WatchedStore):
    """A store over the world's tables, reached through a line."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.tables, clock=world.store_clock)
        self.world, self.process = world, process
        self.line = Line(world, process, "store")

    def twin(self) -> Self:
        """Return another one of the same process."""
        return type(self)(self.world, self.process)

    def fuse(self, bus: EventBus) -> Fusion | None:
        """Return the fused arrangement in worlds of that kind."""
        return SimFusion(self, bus) if self.world.profile.kind == "fused" and isinstance(bus, SimBus) else None

    async def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """Claim what is due."""

        async def half() -> Due:
            less = {
                group: DueWant(wish.limit // 2, wish.lease, alone=wish.alone, takeover=wish.takeover)
                for group, wish in want.items()
            }
            return await WatchedStore.due(self, worker, call, less)

        return await self.line.carry("due", lambda: WatchedStore.due(self, worker, call, want), half)

    async def finish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle, and acknowledge in the same step where bus and store are one server."""
        answers = await WatchedStore.settle(self, outcomes)
        if self.world.profile.kind == "fused":
            done = [
                outcome.delivery
                for outcome, ok in zip(outcomes, answers, strict=True)
                if ok and outcome.delivery is not None and outcome.kind is not OutcomeKind.HANDBACK
            ]
            self.world.broker.acked(done, "")
        return answers


def _carried(name: str) -> Callable[..., Awaitable[Any]]:
    method: Callable[..., Any] = SimStore.finish if name == "settle" else getattr(WatchedStore, name)
    place = _BATCHES.get(name)

    async def call(self: SimStore, *args: Any, **kwargs: Any) -> Any:
        half = None if place is None or len(args[place]) < 2 else partial(_half, self, method, place, args)
        return await self.line.carry(name, lambda: method(self, *args, **kwargs), half)

    call.__name__, call.__doc__ = name, getattr(WatchedStore, name).__doc__
    return call


def _half(store: SimStore, method: Callable[..., Any], place: int, args: tuple[Any, ...]) -> Any:
    """Carry out the first part of a batch."""
    cut = store.world.rng.randrange(1, len(args[place]))
    return method(store, *args[:place], args[place][:cut], *args[place + 1 :])


for _name in (*_BATCHES, *_SINGLES):
    setattr(SimStore, _name, _carried(_name))


class SimBus(MemoryEventBus):
    """A bus over the world's broker, reached through a line."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.broker, clock=world.bus_clock, lease=world.profile.bus_lease)
        self.world, self.process = world, process
        self.capabilities = world.broker.capabilities()
        self.line = Line(world, process, "bus")

    def twin(self, *, lease: float | None = None) -> Self:  # noqa: ARG002 - the history says how long it is
        """Return another one of the same process."""
        return type(self)(self.world, self.process)

    @property
    def reader(self) -> str:
        """The name of its connection."""
        return self._reader or ""

    def drop(self) -> None:
        """Break the connection; the next one has another name."""
        if self._reader is not None:
            gone, self._reader = self._reader, self.world.name("r")
            for event in self._waiting:
                event.set()
            self.world.broker.dropped(gone, self._clock.time())

    async def open(self) -> None:
        """Connect."""

        async def call() -> None:
            if self._reader is None:
                self._reader = self.world.name("r")
                self.world.buses.append(self)

        await self.line.carry("open", call)

    async def close(self) -> None:
        """Disconnect."""
        reader = self._reader
        await MemoryEventBus.close(self)
        if reader is not None:
            self.world.broker.dropped(reader, self._clock.time())

    async def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """See the port."""
        await self.line.carry("ensure", lambda: MemoryEventBus.ensure(self, topic, groups))

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:
        """See the port."""

        def half() -> Any:
            return MemoryEventBus.publish(self, batch[: max(1, len(batch) // 2)], timeout)

        try:
            stored: list[Receipt | Exception] = await self._carry(
                "publish", lambda: MemoryEventBus.publish(self, batch, timeout), half
            )
        except Lost as error:
            if not error.sent:
                return [error] * len(batch)
            return [PublishUncertain(str(error))] * len(batch)
        return stored

    async def read(self, want: Mapping[Group, int], wait: float) -> list[Delivery]:
        """See the port."""
        deliveries: list[Delivery] = await self._carry("read", lambda: MemoryEventBus.read(self, want, wait))
        return deliveries

    async def ack(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        await self._each("ack", batch, self.finish)

    async def finish(self, batch: Sequence[Delivery]) -> None:
        """Acknowledge, as the broker's kind does."""
        self.world.broker.acked(batch, self._opened("ack"))

    async def extend(self, batch: Sequence[Delivery]) -> list[bool | None]:
        """See the port."""
        answers: list[bool | None] = await self._each("extend", batch, lambda part: MemoryEventBus.extend(self, part))
        return answers

    async def give_back(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        await self._each("give_back", batch, lambda part: MemoryEventBus.give_back(self, part))

    async def _each(self, name: str, batch: Sequence[Delivery], call: Callable[..., Any]) -> Any:
        half = (lambda: call(batch[: len(batch) // 2])) if len(batch) > 1 else None
        return await self._carry(name, lambda: call(batch), half)

    async def _carry(self, name: str, call: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        try:
            return await self.line.carry(name, call, half)
        except Lost:
            if self.world.broker.redelivery in ("connection", "position"):
                self.drop()  # on such a bus a lost message is a broken connection
            raise

    async def history(self, topic: str, start: Start, end: Start) -> AsyncIterator[tuple[str, bytes]]:
        """See the port."""

        async def page() -> list[tuple[str, bytes]]:
            return [item async for item in MemoryEventBus.history(self, topic, start, end)]

        for item in await self.line.carry("history", page):
            yield item

    async def trim(self, topic: str, before: float) -> int:
        """See the port."""
        return await self.line.carry("trim", lambda: MemoryEventBus.trim(self, topic, before))

    async def info(self, topic: str) -> Any:
        """See the port."""
        return await self.line.carry("info", lambda: MemoryEventBus.info(self, topic))

    async def topics(self) -> list[str]:
        """See the port."""
        return await self.line.carry("topics", lambda: MemoryEventBus.topics(self))

    async def delete(self, what: Group | str) -> int:
        """See the port."""
        return await self.line.carry("delete", lambda: MemoryEventBus.delete(self, what))


class SimFusion:
    """The read is the claim: both in one step of the server, which remembers a call for a repetition."""

    def __init__(self, store: SimStore, bus: SimBus) -> None:
        self.store, self.bus = store, bus
        self.line = Line(store.world, store.process, "store")

    async def take(
        self, worker: str, call: str, want: Mapping[Group, DueWant], wait: float
    ) -> list[tuple[Delivery, Grant]]:
        """See the port."""
        return await self.line.carry("take", lambda: self._take(worker, call, want, wait))

    async def _take(
        self, worker: str, call: str, want: Mapping[Group, DueWant], wait: float
    ) -> list[tuple[Delivery, Grant]]:
        taken = self.store.world.taken
        if call in taken:
            return await self._again(worker, *taken[call])
        room = {group: wish.limit for group, wish in want.items()}
        deliveries = await MemoryEventBus.read(self.bus, room, wait)
        asks = []
        for number, delivery in enumerate(deliveries):
            wish = want[delivery.group]
            ask = Ask(delivery.group, delivery.id, f"{call}.{number}", wish.lease, delivery.key, delivery.after)
            ask.takeover, ask.position = wish.takeover, delivery.position
            asks.append(ask)
        taken[call] = (asks, deliveries)
        grants = await WatchedStore.claim(self.store, worker, asks)
        for ask, grant in zip(asks, grants, strict=True):
            if grant.kind is GrantKind.GRANTED:
                grant.token = grant.token or ask.token
        return list(zip(deliveries, grants, strict=True))

    async def _again(self, worker: str, asks: list[Ask], deliveries: list[Delivery]) -> list[tuple[Delivery, Grant]]:
        """Hand out what the call has granted and still holds; the rest comes again by time."""
        held = []
        for ask, delivery in zip(asks, deliveries, strict=True):
            row = self.store.data.run(ask.group.topic, ask.group.agent, ask.event_id)
            if row is not None and row.token == ask.token:
                held.append((delivery, (await WatchedStore.claim(self.store, worker, [ask]))[0]))
        return held


def checked_types() -> tuple[type[EventBus], type[Store]]:
    """Prove to the type checker that these are adapters."""
    return SimBus, SimStore
