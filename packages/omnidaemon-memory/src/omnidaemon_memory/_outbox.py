"""The outbox of a memory store and the indexes it is read by."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

from omnidaemon.model.run import Group
from omnidaemon.ports.ledger import OutboxRow
from omnidaemon_memory._sorted import SortedIndex

__all__ = ["OutboxTable"]


class OutboxTable:
    """Rows by their event's id. Rows in here are never changed, only replaced."""

    def __init__(self) -> None:
        self._rows: dict[str, OutboxRow] = {}
        self._serials: dict[str, int] = {}
        self._serial = 0
        # In the order in which they are published: by due time, then by insertion.
        self._order: SortedIndex[None, tuple[float, int, str]] = SortedIndex()
        # When each is due or its lease ends.
        self._times: SortedIndex[None, tuple[float, str]] = SortedIndex()
        self._unsent: dict[Group, dict[str, dict[str, None]]] = {}

    def get(self, name: str) -> OutboxRow | None:
        """Return a row as it is stored: not to be changed."""
        return self._rows.get(name)

    def set(self, name: str, row: OutboxRow | None) -> None:
        """Replace, insert or (None) remove a row and its index entries."""
        old = self._rows.pop(name, None)
        if old is not None:
            self._order.remove(None, (old.due, self._serials[name], name))
            self._times.remove(None, (_free(old), name))
            self._disown(name, old)
        if row is None:
            self._serials.pop(name, None)
            return
        if name not in self._serials:
            self._serial += 1
            self._serials[name] = self._serial
        self._rows[name] = row
        self._order.add(None, (row.due, self._serials[name], name))
        self._times.add(None, (_free(row), name))
        if row.source is not None:
            self._unsent.setdefault(row.source, {}).setdefault(row.source_event, {})[name] = None

    def _disown(self, name: str, row: OutboxRow) -> None:
        if row.source is None:
            return
        events = self._unsent[row.source]
        del events[row.source_event][name]
        if not events[row.source_event]:
            del events[row.source_event]
        if not events:
            del self._unsent[row.source]

    def free(self, now: float, limit: int) -> list[OutboxRow]:
        """Return rows that are due, not leased, and behind no leased one of their key, in order."""
        return list(islice(self._free(now), limit))

    def _free(self, now: float) -> Iterator[OutboxRow]:
        held: set[tuple[str, str]] = set()
        for due, _, name in self._order.items(None):
            if due > now:
                return
            row = self._rows[name]
            key = None if row.event.key is None else (row.event.topic, row.event.key)
            if row.leased_until > now:
                if key is not None:
                    held.add(key)
            elif key not in held:
                yield row

    def next_free(self, now: float) -> float | None:
        """Return when the next row that is not held is due or its lease ends."""
        if next(self._free(now), None) is not None:
            return now
        times = self._times.items(None)
        place = bisect_right(times, now, key=lambda item: item[0])
        return times[place][0] if place < len(times) else None

    def unsent(self, group: Group, event_id: str | None) -> list[str]:
        """Return the ids of rows that a group wrote, or one of its runs."""
        events = self._unsent.get(group, {})
        if event_id is not None:
            return list(events.get(event_id, {}))
        return [name for names in events.values() for name in names]


def _free(row: OutboxRow) -> float:
    return max(row.due, row.leased_until)
