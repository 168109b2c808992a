"""How the tests of a bus get their buses and events."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon.ports.event_bus import EventBus
from omnidaemon_testing.content import event_bytes
from omnidaemon_testing.contracts.base import ContractBase

__all__ = ["BEGINNING", "NOW", "BusBase", "ids"]

BEGINNING, NOW = Start("beginning"), Start("now")
T = TypeVar("T")


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the ids of deliveries."""
    return [delivery.id for delivery in deliveries]


class BusBase(ContractBase):
    """Base of the event bus rules; see :class:`EventBusContract` for what to override."""

    topic = "orders.created"
    _make_bus: Callable[..., EventBus]
    _opened: list[EventBus]

    @pytest.fixture
    def make_bus(self) -> Callable[..., EventBus]:
        """Return a factory of unopened buses that share one server and one namespace."""
        name = type(self).__name__
        raise NotImplementedError(
            f"{name} must override the fixture make_bus:\n\n"
            "    @pytest.fixture\n"
            "    def make_bus(self, unique_prefix):\n"
            "        lease = self.timing.lease\n"
            "        return lambda namespace=unique_prefix: YourBus(URL, namespace=namespace, lease=lease)\n"
        )

    @pytest.fixture(autouse=True)
    def _bus_setup(self, _contract_setup: None, make_bus: Callable[..., EventBus]) -> None:
        self.use_bus(make_bus)

    def use_bus(self, make_bus: Callable[..., EventBus]) -> None:
        """Take buses from this factory."""
        self._make_bus, self._opened = make_bus, []
        self._numbers = itertools.count(1)

    # --- buses --------------------------------------------------------------------------------------

    def make(self, **settings: Any) -> EventBus:
        """Return an unopened bus; skip if its factory does not take one of ``settings``."""
        if not settings:
            return self._make_bus()
        try:
            return self._make_bus(**settings)
        except TypeError as error:
            if "unexpected keyword" not in str(error) and "positional argument" not in str(error):
                raise
            self.not_tried(f"the factory of make_bus takes no {', '.join(settings)}=")

    async def open(self, **settings: Any) -> EventBus:
        """Return an open bus that is closed when the test ends."""
        bus = self.make(**settings)
        if not self._opened:
            self.facts["event_bus"] = bus.capabilities
            self._closing.push_async_callback(self._tidy)
        await bus.open()
        self._opened.append(bus)
        return bus

    async def _tidy(self) -> None:
        """Leave nothing on a shared server; no rule depends on it."""
        for bus in reversed(self._opened):
            with contextlib.suppress(Exception):
                for topic in await bus.topics():
                    await bus.delete(topic)
            await bus.close()

    async def open_with(self, *agents: str, start: Start = BEGINNING, topic: str | None = None) -> tuple[EventBus, Any]:
        """Return an open bus and the group of the agent, or the groups of several, on a topic."""
        bus = await self.open()
        groups = [self.group(agent, topic=topic) for agent in agents or ("agent",)]
        await bus.ensure(topic or self.topic, dict.fromkeys(groups, start))
        return bus, groups[0] if len(groups) == 1 else groups

    def group(self, agent: str = "agent", epoch: int = 1, topic: str | None = None) -> Group:
        """Return a group."""
        return Group(topic or self.topic, agent, epoch)

    # --- events --------------------------------------------------------------------------------------

    def event(
        self, event_id: str | None = None, content: Any = None, *, key: str | None = None, topic: str | None = None
    ) -> Outgoing:
        """Return an event; without an id it is ``e1``, ``e2`` and so on."""
        topic, event_id = topic or self.topic, event_id or f"e{next(self._numbers)}"
        return Outgoing(topic, event_id, event_bytes(event_id, topic, content, key=key), key)

    def events(self, count: int, **fields: Any) -> list[Outgoing]:
        """Return several events."""
        return [self.event(**fields) for _ in range(count)]

    async def publish(self, bus: EventBus, *events: Outgoing) -> list[Receipt]:
        """Publish and assert that every event was stored."""
        outcomes = await bus.publish(events, self.timing.deadline)
        assert len(outcomes) == len(events), "publish must return one outcome for each event"
        receipts = []
        for event, outcome in zip(events, outcomes, strict=True):
            assert isinstance(outcome, Receipt), f"publishing {event.id} failed: {outcome!r}"
            receipts.append(outcome)
        return receipts

    # --- reading -------------------------------------------------------------------------------------

    async def collect(
        self, bus: EventBus, group: Group, count: int, *, ack: bool = True, within: float | None = None
    ) -> list[Delivery]:
        """Read until the group has got ``count`` events; acknowledge them unless told otherwise."""
        limit = self.timing.deadline if within is None else within
        got: list[Delivery] = []
        begun = self.time()
        while len(got) < count:
            late = self.time() - begun > limit
            fresh = await bus.read({group: count - len(got)}, min(self.timing.quiet, limit))
            if ack and fresh:
                await bus.ack(fresh)
            got.extend(fresh)
            assert fresh or not late, f"{group.agent} got {ids(got)} within {limit:g} s, {count} events were expected"
        return got

    async def nothing_for(self, bus: EventBus, want: Mapping[Group, int], seconds: float | None = None) -> None:
        """Assert that the groups get nothing for a while."""
        left = self.time() + (self.timing.quiet if seconds is None else seconds)
        while (wait := left - self.time()) > 0:
            got = await bus.read(want, wait)
            assert not got, f"got {[(delivery.group.agent, delivery.id) for delivery in got]}, nothing was to come"

    def redelivered_within(self) -> float:
        """Return how long the contract gives a bus to hand out again what its reader left behind."""
        return self.timing.lease + self.timing.slack
