"""The runs of a memory store and the indexes they are found by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import fields
from typing import TypeVar

from omnidaemon.model.run import Group
from omnidaemon.ports.ledger import RunRow
from omnidaemon.ports.store import Query
from omnidaemon_memory._sorted import SortedIndex

__all__ = ["Key", "RunTable", "copy_run"]

Key = tuple[str, str, str]
K = TypeVar("K")
_FIELDS = tuple(field.name for field in fields(RunRow))
_NOTES = _FIELDS.index("notes")


def copy_run(row: RunRow) -> RunRow:
    """Return a row that can be changed without changing ``row``."""
    values = [getattr(row, name) for name in _FIELDS]
    values[_NOTES] = dict(row.notes)
    return RunRow(*values)


class RunTable:
    """Rows by (topic, agent, event id). Rows in here are never changed, only replaced."""

    def __init__(self) -> None:
        self._rows: dict[Key, RunRow] = {}
        self._serials: dict[Key, int] = {}
        self._serial = 0
        # By group and whether suspect: (ready, serial, key), so that equal times keep their order.
        self._ready: SortedIndex[tuple[Group, bool], tuple[float, int, Key]] = SortedIndex()
        self._lanes: SortedIndex[tuple[Group, str], tuple[float, Key]] = SortedIndex()
        self._claims: dict[str, dict[Key, str]] = {}
        self._live: dict[Group, dict[Key, None]] = {}
        self._dead: dict[tuple[str, str], dict[Key, None]] = {}
        self._by_event: dict[str, dict[Key, None]] = {}
        # All rows by (updated, event id, agent, topic), the order in which records are listed.
        self._updated: SortedIndex[None, tuple[float, str, str, str]] = SortedIndex()

    def get(self, key: Key) -> RunRow | None:
        """Return a row as it is stored: not to be changed."""
        return self._rows.get(key)

    def set(self, key: Key, row: RunRow | None) -> None:
        """Replace, insert or (None) remove a row and its index entries."""
        old = self._rows.pop(key, None)
        if old is not None:
            self._unindex(key, old)
        if row is None:
            self._serials.pop(key, None)
            return
        if key not in self._serials:
            self._serial += 1
            self._serials[key] = self._serial
        self._rows[key] = row
        self._index(key, row)

    def _index(self, key: Key, row: RunRow) -> None:
        topic, agent, event_id = key
        self._updated.add(None, (row.updated, event_id, agent, topic))
        self._by_event.setdefault(event_id, {})[key] = None
        if not row.state.final:
            self._live.setdefault(row.group, {})[key] = None
        if row.dead is not None:
            self._dead.setdefault((topic, agent), {})[key] = None
        if row.token is not None and row.worker is not None:
            self._claims.setdefault(row.worker, {})[key] = row.token
        if row.lane is not None and row.lane_seq is not None:
            self._lanes.add((row.group, row.lane), (row.lane_seq, key))
        if row.ready is not None:
            self._ready.add((row.group, row.suspect), (row.ready, self._serials[key], key))

    def _unindex(self, key: Key, row: RunRow) -> None:
        topic, agent, event_id = key
        self._updated.remove(None, (row.updated, event_id, agent, topic))
        _discard(self._by_event, event_id, key)
        if not row.state.final:
            _discard(self._live, row.group, key)
        if row.dead is not None:
            _discard(self._dead, (topic, agent), key)
        if row.token is not None and row.worker is not None:
            claims = self._claims[row.worker]
            del claims[key]
            if not claims:
                del self._claims[row.worker]
        if row.lane is not None and row.lane_seq is not None:
            self._lanes.remove((row.group, row.lane), (row.lane_seq, key))
        if row.ready is not None:
            self._ready.remove((row.group, row.suspect), (row.ready, self._serials[key], key))

    def ready(self, group: Group, until: float, *, suspect: bool) -> Iterator[RunRow]:
        """Iterate over what is ready by ``until``, earliest first."""
        for ready, _, key in self._ready.items((group, suspect)):
            if ready > until:
                return
            yield self._rows[key]

    def next_ready(self, group: Group) -> float | None:
        """Return the earliest ready time of what is no suspect."""
        items = self._ready.items((group, False))
        return items[0][0] if items else None

    def claimed(self, worker: str, prefix: str) -> list[RunRow]:
        """Return the worker's runs whose token begins with ``prefix``, in the order they were given."""
        claims = self._claims.get(worker, {})
        found = sorted((len(token), token, key) for key, token in claims.items() if token.startswith(prefix))
        return [self._rows[key] for _, _, key in found]

    def lane(self, group: Group, lane: str, before: float | None, *, last: bool) -> RunRow | None:
        """Return the first or last run of a lane, or the one just before a place."""
        items = self._lanes.items((group, lane))
        place = len(items) if before is None else bisect_left(items, (before, ("", "", "")))
        if before is None and not last:
            place = min(place, 1)
        return self._rows[items[place - 1][1]] if place else None

    def live(self, group: Group) -> list[RunRow]:
        """Return the group's runs that are not final."""
        return [self._rows[key] for key in self._live.get(group, {})]

    def dead(self, topic: str, agent: str) -> int:
        """Return how many dead letters an agent has; they never expire."""
        return len(self._dead.get((topic, agent), {}))

    def newest(self, query: Query, after: tuple[float, str, str, str] | None) -> Iterator[RunRow]:
        """Iterate over rows that may match, by update descending, below ``after``."""
        keys = self._few(query)
        if keys is None:
            order = self._updated.items(None)
        else:
            order = sorted((self._rows[key].updated, key[2], key[1], key[0]) for key in keys)
        for place in range(len(order) if after is None else bisect_left(order, after), 0, -1):
            _, event_id, agent, topic = order[place - 1]
            yield self._rows[topic, agent, event_id]

    def _few(self, query: Query) -> list[Key] | None:
        """Return the keys of the narrowest index that holds all matches; None for the whole table."""
        if query.event_ids is not None:
            return [key for event_id in set(query.event_ids) for key in self._by_event.get(event_id, {})]
        if query.dead:
            return [key for keys in self._dead.values() for key in keys]
        if query.states is not None and not any(state.final for state in query.states):
            return [key for keys in self._live.values() for key in keys]
        return None


def _discard(index: dict[K, dict[Key, None]], name: K, key: Key) -> None:
    keys = index[name]
    del keys[key]
    if not keys:
        del index[name]
