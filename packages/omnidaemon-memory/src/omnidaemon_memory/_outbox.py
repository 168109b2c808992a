"""The outbox of a memory store and the indexes it is read by."""

from __future__ import annotations

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
        # When a relay may have it, in the order of insertion where times are equal.
        self._times: SortedIndex[None, tuple[float, int, str]] = SortedIndex()
        self._unsent: dict[Group, dict[str, dict[str, None]]] = {}

    def get(self, name: str) -> OutboxRow | None:
        """Return a row as it is stored: not to be changed."""
        return self._rows.get(name)

    def set(self, name: str, row: OutboxRow | None) -> None:
        """Replace, insert or (None) remove a row and its index entries."""
        old = self._rows.pop(name, None)
        if old is not None:
            self._times.remove(None, (_free(old), self._serials[name], name))
            self._disown(name, old)
        if row is None:
            self._serials.pop(name, None)
            return
        if name not in self._serials:
            self._serial += 1
            self._serials[name] = self._serial
        self._rows[name] = row
        self._times.add(None, (_free(row), self._serials[name], name))
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

    def free(self, now: float, limit: int) -> list[str]:
        """Return the ids of rows that are due and not leased, earliest first."""
        return [name for time, _, name in self._times.items(None)[:limit] if time <= now]

    def next_free(self) -> float | None:
        """Return when the next row is due or its lease ends."""
        times = self._times.items(None)
        return times[0][0] if times else None

    def unsent(self, group: Group, event_id: str | None) -> list[str]:
        """Return the ids of rows that a group wrote, or one of its runs."""
        events = self._unsent.get(group, {})
        if event_id is not None:
            return list(events.get(event_id, {}))
        return [name for names in events.values() for name in names]


def _free(row: OutboxRow) -> float:
    return max(row.due, row.leased_until)
