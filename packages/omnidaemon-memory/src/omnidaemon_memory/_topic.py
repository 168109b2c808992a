"""One topic of the memory bus: its events in order, and what each group has read and finished."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from omnidaemon.model.errors import ConfigurationError
from omnidaemon.model.run import Group, Outgoing, Start
from omnidaemon.ports.event_bus import Figure, GroupInfo, TopicInfo
from omnidaemon_memory._sorted import SortedIndex

__all__ = ["Entry", "GroupState", "Hand", "TopicState"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A published event; ``upto`` counts the bytes of the topic up to and with this one."""

    position: int
    published: float
    id: str
    key: str | None
    body: bytes
    upto: int


@dataclass(slots=True)
class Hand:
    """An entry in a reader's hands until it is acknowledged, or until it is due for somebody else."""

    entry: Entry
    reader: str
    until: float


@dataclass(slots=True)
class GroupState:
    """What a group has read: everything up to ``cursor``; of that, ``pending`` is not finished."""

    cursor: int
    pending: dict[int, Hand] = field(default_factory=dict)
    # Heap of redelivery times, with stale entries: one counts only if its hand still has that time.
    times: list[tuple[float, int]] = field(default_factory=list)
    # Heap of the positions whose time has come, so that they come back in the order of publishing.
    back: list[int] = field(default_factory=list)
    keys: SortedIndex[str, int] = field(default_factory=SortedIndex[str, int])

    def hand_over(self, entry: Entry, reader: str, until: float) -> None:
        """Give an entry to a reader until that time, or prolong."""
        if entry.position not in self.pending and entry.key is not None:
            self.keys.add(entry.key, entry.position)
        self.pending[entry.position] = Hand(entry, reader, until)
        heappush(self.times, (until, entry.position))

    def finish(self, position: int) -> None:
        """Take an entry as finished; one that is finished already stays so."""
        hand = self.pending.pop(position, None)
        if hand is not None and hand.entry.key is not None:
            self.keys.remove(hand.entry.key, position)

    def redeliver(self, now: float) -> Entry | None:
        """Return the oldest entry that is due for redelivery, if one is."""
        while (due := self._next_time()) is not None and due <= now:
            heappush(self.back, heappop(self.times)[1])
        while self.back:
            hand = self.pending.get(self.back[0])
            if hand is not None and hand.until <= now:
                return hand.entry
            heappop(self.back)
            if hand is not None:  # prolonged meanwhile, or the clock was set back
                heappush(self.times, (hand.until, hand.entry.position))
        return None

    def next_time(self, now: float) -> float | None:
        """Return when the next pending entry is due for redelivery."""
        return now if self.redeliver(now) is not None else self._next_time()

    def _next_time(self) -> float | None:
        while self.times:
            until, position = self.times[0]
            hand = self.pending.get(position)
            if hand is not None and hand.until == until:
                return until
            heappop(self.times)
        return None

    def predecessor(self, entry: Entry) -> str | None:
        """Return the id of the closest earlier event of that key which the group has not finished."""
        if entry.key is None:
            return None
        ids = (self.pending[position].entry.id for position in self.keys.before(entry.key, entry.position))
        return next((id_ for id_ in ids if id_ != entry.id), None)

    def owes(self, position: int) -> bool:
        """Return whether the group has not finished that position."""
        return position > self.cursor or position in self.pending


class TopicState:
    """A topic: positions count from 1 and are never used twice; publish times never run backwards."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.groups: dict[Group, GroupState] = {}
        self.last = 0
        self._upto = 0
        self._published = 0.0

    def append(self, event: Outgoing, now: float) -> Entry:
        """Publish an event."""
        self.last += 1
        self._upto += len(event.body)
        self._published = max(self._published, now)
        entry = Entry(self.last, self._published, event.id, event.key, event.body, self._upto)
        self.entries.append(entry)
        return entry

    def following(self, cursor: int) -> Iterator[Entry]:
        """Iterate over the retained entries behind ``cursor``."""
        place = bisect_right(self.entries, cursor, key=lambda entry: entry.position)
        return (self.entries[index] for index in range(place, len(self.entries)))

    def before(self, start: Start) -> int:
        """Return the cursor from which reading begins at ``start``.

        Raises:
            ConfigurationError: ``start`` is a position that this bus never gave.
        """
        first = self.entries[0].position if self.entries else self.last + 1
        if start.kind == "beginning":
            return first - 1
        if start.kind == "now":
            return self.last
        if start.kind == "time":
            place = bisect_left(self.entries, start.time, key=lambda entry: entry.published)
            return self.entries[place].position - 1 if place < len(self.entries) else self.last
        return min(max(_number(start.position), first) - 1, self.last)

    def until(self, end: Start) -> int:
        """Return the last position that a reading which ends at ``end`` gives; ends are inclusive."""
        if end.kind == "beginning":
            return 0
        if end.kind == "position":
            return min(_number(end.position), self.last)
        if end.kind == "time":
            place = bisect_right(self.entries, end.time, key=lambda entry: entry.published)
            return self.entries[place - 1].position if place else 0
        return self.last

    def unfinished_bytes(self) -> int:
        """Return the bytes from the oldest event on that some group, or nobody yet, has finished."""
        if not self.entries:
            return 0
        oldest = min((self._oldest(group) for group in self.groups.values()), default=self.entries[0].position)
        first = next(self.following(oldest - 1), None)
        return 0 if first is None else self._upto - first.upto + len(first.body)

    def trim(self, before: float) -> int:
        """Remove what was published before that time and finished by every group."""
        place = bisect_left(self.entries, before, key=lambda entry: entry.published)
        kept = [
            entry for entry in self.entries[:place] if any(group.owes(entry.position) for group in self.groups.values())
        ]
        self.entries[:place] = kept
        return place - len(kept)

    def info(self, topic: str) -> TopicInfo:
        """Describe the topic."""
        return TopicInfo(
            topic,
            length=Figure(len(self.entries)),
            bytes=Figure(sum(len(entry.body) for entry in self.entries)),
            first=str(self.entries[0].position) if self.entries else "",
            last=str(self.entries[-1].position) if self.entries else "",
            groups=self._group_infos(),
        )

    def _group_infos(self) -> Sequence[GroupInfo]:
        infos: list[GroupInfo] = []
        for group, state in sorted(self.groups.items()):
            oldest = next(self.following(self._oldest(state) - 1), None)
            infos.append(
                GroupInfo(
                    group,
                    lag=Figure(self.last - state.cursor),
                    pending=Figure(len(state.pending)),
                    oldest=None if oldest is None else oldest.published,
                    position=str(state.cursor),
                    readers=sorted({hand.reader for hand in state.pending.values()}),
                )
            )
        return infos

    def _oldest(self, group: GroupState) -> int:
        """Return the lowest position that the group has not finished, published or not yet."""
        return min(group.pending, default=group.cursor + 1)


def _number(position: str) -> int:
    if not position.isdecimal():
        raise ConfigurationError(f"{position!r} is no position of the memory bus: use one that it gave, such as '17'")
    return int(position)
