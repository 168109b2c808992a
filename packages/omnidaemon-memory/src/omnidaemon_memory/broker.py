"""The state that all twins of a memory bus share, whatever thread or event loop they live in."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from omnidaemon.model.errors import BusFull, NotAttempted, PayloadTooLarge
from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon.ports.event_bus import Figure, TopicInfo
from omnidaemon_memory._topic import Entry, GroupState, TopicState

__all__ = ["MemoryBroker"]


@dataclass(frozen=True, slots=True)
class _Tag:
    """How a delivery finds its way back, also when its group has been deleted or made anew since."""

    state: GroupState
    position: int


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    event: asyncio.Event
    topics: frozenset[str]

    def wake(self) -> None:
        # A waiter of a loop that was closed under it has nobody left to wake.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.event.set)


class MemoryBroker:
    """Topics, groups and waiting readers, under one lock that is never held across an await."""

    _named: dict[str, MemoryBroker] = {}  # noqa: RUF012 - process-wide on purpose
    _naming = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, TopicState] = {}
        self._waiters: dict[_Waiter, None] = {}  # in the order in which they began to wait

    @classmethod
    def named(cls, namespace: str) -> MemoryBroker:
        """Return the broker that everything of this process and namespace shares."""
        with cls._naming:
            return cls._named.setdefault(namespace, cls())

    def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """Make a topic and its groups; existing groups keep their position."""
        with self._lock:
            state = self._topics.setdefault(topic, TopicState())
            for group, start in groups.items():
                if group not in state.groups:
                    state.groups[group] = GroupState(state.before(start))
            self._wake(topic)

    def publish(
        self, batch: Sequence[Outgoing], now: float, max_event: int, max_topic: int | None
    ) -> list[Receipt | Exception]:
        """Append events; an outcome for each. After a failure its key's later events are not attempted."""
        failed: set[tuple[str, str]] = set()
        outcomes: list[Receipt | Exception] = []
        with self._lock:
            for event in batch:
                outcome = self._publish(event, now, max_event, max_topic, failed)
                if event.key is not None and isinstance(outcome, Exception):
                    failed.add((event.topic, event.key))
                outcomes.append(outcome)
            for topic in dict.fromkeys(event.topic for event in batch):
                self._wake(topic)
        return outcomes

    def _publish(
        self, event: Outgoing, now: float, max_event: int, max_topic: int | None, failed: set[tuple[str, str]]
    ) -> Receipt | Exception:
        if event.key is not None and (event.topic, event.key) in failed:
            return NotAttempted(f"event {event.id}: an earlier event of key {event.key!r} failed, publish both again")
        if len(event.body) > max_event:
            return PayloadTooLarge(f"event {event.id} has {len(event.body)} bytes, the bus takes {max_event}")
        state = self._topics.setdefault(event.topic, TopicState())
        if max_topic is not None and state.unfinished_bytes() + len(event.body) > max_topic:
            return BusFull(
                f"topic {event.topic} holds {max_topic} bytes that some group has not finished (topic_max_bytes):"
                " start workers for its agents, or delete the agents that no longer run"
            )
        return Receipt(str(state.append(event, now).position))

    def take(
        self, want: Mapping[Group, int], reader: str, now: float, lease: float
    ) -> tuple[list[Delivery], float | None]:
        """Hand over what there is; also when the next redelivery of these groups is due."""
        deliveries: list[Delivery] = []
        times: list[float] = []
        with self._lock:
            for group, limit in want.items():
                topic = self._topics.get(group.topic)
                state = None if topic is None else topic.groups.get(group)
                if topic is None or state is None or limit <= 0:
                    continue
                for entry in self._available(topic, state, limit, now):
                    state.hand_over(entry, reader, now + lease)
                    deliveries.append(self._delivery(group, state, entry))
                if (due := state.next_time(now)) is not None:
                    times.append(due)
        return deliveries, min(times, default=None)

    @staticmethod
    def _available(topic: TopicState, state: GroupState, limit: int, now: float) -> Iterator[Entry]:
        """Yield what the group may have now, redeliveries first; the caller hands over each at once."""
        for _ in range(limit):
            entry = state.redeliver(now)
            if entry is None:
                entry = next(topic.following(state.cursor), None)
                if entry is None:
                    return
                state.cursor = entry.position
            yield entry

    @staticmethod
    def _delivery(group: Group, state: GroupState, entry: Entry) -> Delivery:
        return Delivery(
            group,
            entry.id,
            entry.body,
            position=str(entry.position),
            key=entry.key,
            after=state.predecessor(entry),
            tag=_Tag(state, entry.position),
        )

    def ack(self, batch: Sequence[Delivery]) -> None:
        """Finish deliveries for their group, whoever holds them now: the claim decided that already."""
        with self._lock:
            for delivery in batch:
                if isinstance(delivery.tag, _Tag):
                    delivery.tag.state.finish(delivery.tag.position)

    def extend(self, batch: Sequence[Delivery], reader: str, until: float) -> list[bool | None]:
        """Put off the redelivery of what this reader still holds."""
        with self._lock:
            return [self._hold(delivery, reader, until) for delivery in batch]

    def give_back(self, batch: Sequence[Delivery], reader: str, now: float) -> None:
        """Make what this reader still holds available now."""
        with self._lock:
            for delivery in batch:
                if self._hold(delivery, reader, now):
                    self._wake(delivery.group.topic)

    @staticmethod
    def _hold(delivery: Delivery, reader: str, until: float) -> bool:
        if not isinstance(delivery.tag, _Tag):
            return False
        hand = delivery.tag.state.pending.get(delivery.tag.position)
        if hand is None or hand.reader != reader:
            return False
        delivery.tag.state.hand_over(hand.entry, reader, until)
        return True

    def bounds(self, topic: str, start: Start, end: Start) -> tuple[int, int]:
        """Return cursor and last position of a reading of the history."""
        with self._lock:
            state = self._topics.get(topic, TopicState())
            return state.before(start), state.until(end)

    def page(self, topic: str, cursor: int, last: int, limit: int) -> list[Entry]:
        """Return retained entries behind ``cursor`` up to ``last``."""
        with self._lock:
            found: list[Entry] = []
            for entry in self._topics.get(topic, TopicState()).following(cursor):
                if entry.position > last or len(found) == limit:
                    break
                found.append(entry)
            return found

    def trim(self, topic: str, before: float) -> int:
        """Remove what is old and finished by every group."""
        with self._lock:
            state = self._topics.get(topic)
            return 0 if state is None else state.trim(before)

    def info(self, topic: str) -> TopicInfo:
        """Describe a topic."""
        with self._lock:
            state = self._topics.get(topic)
            return TopicInfo(topic, length=Figure(0)) if state is None else state.info(topic)

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        with self._lock:
            return sorted(self._topics)

    def delete(self, what: Group | str) -> int:
        """Delete a group (no event goes with it), or a topic; return how many events went."""
        with self._lock:
            if isinstance(what, str):
                topic = self._topics.pop(what, TopicState())
                gone = list(topic.groups.values())
            else:
                home = self._topics.get(what.topic)
                state = None if home is None else home.groups.pop(what, None)
                topic, gone = TopicState(), [] if state is None else [state]
            for state in gone:
                state.pending.clear()  # what is in readers' hands is theirs no longer
            return len(topic.entries)

    @contextlib.contextmanager
    def listen(self, topics: frozenset[str]) -> Generator[asyncio.Event]:
        """Yield an event of the running loop that is set whenever these topics have something new."""
        waiter = _Waiter(asyncio.get_running_loop(), asyncio.Event(), topics)
        with self._lock:
            self._waiters[waiter] = None
        try:
            yield waiter.event
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)

    def _wake(self, topic: str) -> None:
        for waiter in self._waiters:
            if topic in waiter.topics:
                waiter.wake()
