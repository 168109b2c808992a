# ruff: noqa: ARG002 - a broker of one kind has no use for all that another is told
"""Brokers that deliver again in the manner of each kind of bus."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omnidaemon.model.run import Delivery, Group, Start
from omnidaemon.ports.event_bus import BusCapabilities
from omnidaemon_memory import MemoryBroker, MemoryEventBus
from omnidaemon_memory._topic import Entry, GroupState, TopicState
from omnidaemon_memory.broker import _Tag

__all__ = ["SimBroker", "broker_of"]

FOREVER = 1e12
PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class SimTag(_Tag):
    """A delivery also knows its reader, and the assignment under which it was read."""

    reader: str = ""
    assignment: int = 0


class SimBroker(MemoryBroker):
    """By idle time, as the memory broker itself; the base of the others."""

    redelivery = "idle"

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.starts: dict[Group, int] = {}

    def capabilities(self) -> BusCapabilities:
        """Return what the bus declares."""
        from dataclasses import replace

        kind = self.redelivery
        return replace(MemoryEventBus.capabilities, redelivery=kind, trim=kind != "position")  # type: ignore[arg-type]

    def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """Make groups, and remember where each begins."""
        super().ensure(topic, groups)
        for group in groups:
            state = self._topics[topic].groups[group]
            if group not in self.starts:
                self.starts[group] = state.cursor

    def delete(self, what: Group | str) -> int:
        """Delete, and forget where it began."""
        gone = [what] if isinstance(what, Group) else [group for group in self.starts if group.topic == what]
        for group in gone:
            self.starts.pop(group, None)
        return super().delete(what)

    def group(self, group: Group) -> GroupState | None:
        """Return a group's state."""
        topic = self._topics.get(group.topic)
        return None if topic is None else topic.groups.get(group)

    def entries(self, topic: str) -> list[Entry]:
        """Return what a topic holds."""
        state = self._topics.get(topic)
        return [] if state is None else state.entries

    def unfinished(self, group: Group) -> bool:
        """Return whether the group has something to read or to acknowledge."""
        state = self.group(group)
        topic = self._topics.get(group.topic)
        return state is not None and topic is not None and (state.cursor < topic.last or bool(state.pending))

    def all_groups(self) -> list[Group]:
        """Return every group there is."""
        return [group for topic in self._topics.values() for group in topic.groups]

    def joined(self, reader: str) -> None:
        """A reader has connected."""

    def dropped(self, reader: str, now: float) -> None:
        """A reader's connection is gone, or its session has timed out."""

    def acked(self, batch: Sequence[Delivery], reader: str) -> None:
        """Finish deliveries; ``reader`` is who says so."""
        self.ack(batch)


class ConnectionBroker(SimBroker):
    """RabbitMQ: nothing comes again by time; a dropped connection gives all back, and its acks are void."""

    redelivery = "connection"

    def take(
        self, want: Mapping[Group, int], reader: str, now: float, lease: float
    ) -> tuple[list[Delivery], float | None]:
        """Hand over until the connection drops."""
        deliveries, _ = super().take(want, reader, now, FOREVER)
        for delivery in deliveries:
            tag = delivery.tag
            assert isinstance(tag, _Tag)
            delivery.tag = SimTag(tag.state, tag.position, reader)
        return deliveries, None

    def dropped(self, reader: str, now: float) -> None:
        """Give back everything that this reader holds."""
        for name, topic in self._topics.items():
            for state in topic.groups.values():
                for hand in [hand for hand in state.pending.values() if hand.reader == reader]:
                    state.hand_over(hand.entry, "", now)
            self._wake(name)

    def acked(self, batch: Sequence[Delivery], reader: str) -> None:
        """Finish what was delivered over this connection only."""
        held = []
        for delivery in batch:
            tag = delivery.tag
            if isinstance(tag, SimTag):
                hand = tag.state.pending.get(tag.position)
                if hand is not None and hand.reader == tag.reader == reader:
                    held.append(delivery)
        self.ack(held)

    def extend(self, batch: Sequence[Delivery], reader: str, until: float) -> list[bool | None]:
        """There is no such thing."""
        return [None for _ in batch]


class AckWaitBroker(SimBroker):
    """NATS: an acknowledgement time-out that anyone may restart; acks are fired and forgotten."""

    redelivery = "ack_wait"

    def extend(self, batch: Sequence[Delivery], reader: str, until: float) -> list[bool | None]:
        """Restart the time-out, whoever holds it now."""
        for delivery in batch:
            tag = delivery.tag
            if isinstance(tag, _Tag) and self._rng.random() < 0.95:
                hand = tag.state.pending.get(tag.position)
                if hand is not None:
                    tag.state.hand_over(hand.entry, hand.reader, until)
        return [None for _ in batch]

    def acked(self, batch: Sequence[Delivery], reader: str) -> None:
        """Finish, unless the message gets lost."""
        self.ack([delivery for delivery in batch if self._rng.random() < 0.97])


@dataclass(slots=True)
class Partition:
    """A stretch of a topic for one group: what is committed, what was read since, what was acknowledged."""

    committed: int
    cursor: int
    owner: str = ""
    assignment: int = 0
    acked: set[int] = field(default_factory=set)
    again: list[int] = field(default_factory=list)


@dataclass(slots=True)
class PartitionedGroup(GroupState):
    """A group that reads by partitions."""

    partitions: list[Partition] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    assignment: int = 0


class PositionBroker(SimBroker):
    """Kafka: each partition has one reader; a rebalance reads again from the committed position."""

    redelivery = "position"

    def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """Make groups with partitions."""
        super().ensure(topic, groups)
        for group in groups:
            state = self._topics[topic].groups[group]
            if not isinstance(state, PartitionedGroup):
                parts = [Partition(state.cursor, state.cursor) for _ in range(PARTITIONS)]
                self._topics[topic].groups[group] = PartitionedGroup(state.cursor, partitions=parts)

    @staticmethod
    def _place(entry: Entry) -> int:
        return (zlib.crc32(entry.key.encode()) if entry.key is not None else entry.position) % PARTITIONS

    def take(
        self, want: Mapping[Group, int], reader: str, now: float, lease: float
    ) -> tuple[list[Delivery], float | None]:
        """Hand over what follows in this reader's partitions."""
        deliveries: list[Delivery] = []
        for other in self.all_groups():
            if other not in want:
                self._leave(self.group(other), reader)
        for group, limit in want.items():
            topic = self._topics.get(group.topic)
            state = None if topic is None else topic.groups.get(group)
            if topic is None or not isinstance(state, PartitionedGroup):
                continue
            if reader not in state.members:
                state.members.append(reader)
                self._rebalance(state)
            for number, part in enumerate(state.partitions):
                if part.owner == reader:
                    if part.acked and self._rng.random() < 0.3:
                        self._commit(group, part)
                    deliveries += self._read(group, topic, state, number, limit - len(deliveries))
        return deliveries, None

    def _read(
        self, group: Group, topic: TopicState, state: PartitionedGroup, number: int, limit: int
    ) -> list[Delivery]:
        part, found = state.partitions[number], []
        if limit <= 0:
            return []
        again, part.again = sorted(part.again[:limit]), part.again[limit:]
        entries = [entry for entry in topic.entries if self._place(entry) == number]
        picked = [entry for entry in entries if entry.position in again]
        picked += [entry for entry in entries if entry.position > part.cursor][: limit - len(picked)]
        for entry in picked:
            part.cursor = max(part.cursor, entry.position)
            before = [
                other
                for other in entries
                if part.committed < other.position < entry.position and other.key == entry.key and other.id != entry.id
            ]
            found.append(
                Delivery(
                    group,
                    entry.id,
                    entry.body,
                    position=str(entry.position),
                    key=entry.key,
                    after=before[-1].id if entry.key is not None and before else None,
                    tag=SimTag(state, entry.position, part.owner, part.assignment),
                )
            )
        return found

    def _rebalance(self, state: PartitionedGroup) -> None:
        state.assignment += 1
        for number, part in enumerate(state.partitions):
            owner = state.members[(number + state.assignment) % len(state.members)] if state.members else ""
            part.owner, part.assignment = owner, state.assignment
            part.cursor, part.again = part.committed, []
            part.acked.clear()

    def dropped(self, reader: str, now: float) -> None:
        """A member has left: its partitions go to the others."""
        for name, topic in self._topics.items():
            for state in topic.groups.values():
                self._leave(state, reader)
            self._wake(name)

    def _leave(self, state: GroupState | None, reader: str) -> None:
        if isinstance(state, PartitionedGroup) and reader in state.members:
            state.members.remove(reader)
            self._rebalance(state)

    def _mine(self, delivery: Delivery) -> Partition | None:
        tag = delivery.tag
        if not isinstance(tag, SimTag) or not isinstance(tag.state, PartitionedGroup):
            return None
        for part in tag.state.partitions:
            if part.owner == tag.reader and part.assignment == tag.assignment:
                return self._of(tag, delivery)
        return None

    def _of(self, tag: SimTag, delivery: Delivery) -> Partition | None:
        state = tag.state
        assert isinstance(state, PartitionedGroup)
        key, position = delivery.key, tag.position
        part = state.partitions[(zlib.crc32(key.encode()) if key is not None else position) % PARTITIONS]
        return part if part.owner == tag.reader and part.assignment == tag.assignment else None

    def acked(self, batch: Sequence[Delivery], reader: str) -> None:
        """Note it; the commit follows in the background, as far as nothing is missing."""
        for delivery in batch:
            part = self._mine(delivery)
            tag = delivery.tag
            if part is None or not isinstance(tag, SimTag) or tag.reader != reader:
                continue
            part.acked.add(tag.position)
            if self._rng.random() < 0.7:
                self._commit(delivery.group, part)

    def _commit(self, group: Group, part: Partition) -> None:
        topic, state = self._topics.get(group.topic), self.group(group)
        if topic is None or not isinstance(state, PartitionedGroup) or part not in state.partitions:
            return
        number = next(index for index, other in enumerate(state.partitions) if other is part)
        for entry in topic.entries:
            if part.committed < entry.position <= part.cursor and self._place(entry) == number:
                if entry.position not in part.acked:
                    break
                part.committed = entry.position
                part.acked.discard(entry.position)
        open_ = (entry for entry in topic.entries if entry.position > state.partitions[self._place(entry)].committed)
        # What is told of a group says no more than that: everything below is finished.
        state.cursor = next((entry.position - 1 for entry in open_), topic.last)

    def extend(self, batch: Sequence[Delivery], reader: str, until: float) -> list[bool | None]:
        """There is no such thing."""
        return [None for _ in batch]

    def give_back(self, batch: Sequence[Delivery], reader: str, now: float) -> None:
        """Read it again next time."""
        for delivery in batch:
            part, tag = self._mine(delivery), delivery.tag
            if part is not None and isinstance(tag, SimTag) and tag.position not in part.again:
                part.again.append(tag.position)
                self._wake(delivery.group.topic)

    def unfinished(self, group: Group) -> bool:
        """Return whether something above the committed positions is not acknowledged."""
        state, topic = self.group(group), self._topics.get(group.topic)
        if not isinstance(state, PartitionedGroup) or topic is None:
            return False
        for entry in topic.entries:
            part = state.partitions[self._place(entry)]
            if entry.position > part.committed and entry.position not in part.acked:
                return True
        return False


def broker_of(kind: str, rng: random.Random) -> SimBroker:
    """Return a broker of that kind."""
    if kind == "connection":
        return ConnectionBroker(rng)
    if kind == "position":
        return PositionBroker(rng)
    if kind == "ack_wait":
        return AckWaitBroker(rng)
    return SimBroker(rng)
