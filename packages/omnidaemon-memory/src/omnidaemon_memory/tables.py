"""The rows of a memory store: :class:`omnidaemon.ports.ledger.Tables` over dictionaries."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, TypeVar

from omnidaemon.model.run import Counts, Group, TaskState
from omnidaemon.ports.ledger import KvRow, Ledger, OutboxRow, RunRow, Tables
from omnidaemon.ports.store import AgentRow, MetricRow, Query
from omnidaemon_memory._outbox import OutboxTable
from omnidaemon_memory._runs import Key, RunTable, copy_run
from omnidaemon_memory._sorted import SortedIndex

__all__ = ["MemoryTables"]

K = TypeVar("K")
V = TypeVar("V")
_MINUTES_KEPT = 35 * 24 * 60


@dataclass(slots=True)
class _Stream:
    """Progress of one run; it is kept as a whole until ``expires``."""

    expires: float = 0.0
    chunks: dict[int, bytes] = field(default_factory=dict)


class MemoryTables:
    """All data of a store. Used only inside :meth:`transaction`, which is one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0
        self._undo: list[Callable[[], object]] = []
        self._runs = RunTable()
        self._agents: dict[tuple[str, str], AgentRow] = {}
        self._generations: dict[Group, int] = {}
        self._marks: dict[Group, dict[str, tuple[float, float]]] = {}
        self._outbox = OutboxTable()
        # By (topic, agent), then by minute (None: since ever), then by name.
        self._counts: dict[tuple[str, str], dict[int | None, dict[str, float]]] = {}
        self._streams: dict[Key, _Stream] = {}
        self._values: dict[tuple[str, str], KvRow] = {}
        self._names: SortedIndex[str, str] = SortedIndex()
        # (expires, what, key) of everything that expires; an entry counts if the row still has that time.
        self._expiries: list[tuple[float, str, tuple[str, ...]]] = []

    @contextlib.contextmanager
    def transaction(self, now: float) -> Generator[Ledger]:
        """Yield the ledger at the time ``now``; if the block raises, nothing of it has happened."""
        with self._lock:
            self._now = now
            self._undo.clear()
            try:
                yield Ledger(self)
            except BaseException:
                steps, self._undo = self._undo, []
                for step in reversed(steps):
                    step()
                raise

    def now(self) -> float:
        """See ``Tables``."""
        return self._now

    def agent(self, topic: str, agent: str) -> AgentRow | None:
        """See ``Tables``."""
        row = self._agents.get((topic, agent))
        # Read with every claim: `replace` would take three times as long.
        return None if row is None else AgentRow(topic, agent, row.epoch, row.deleted, row.data, row.registered_at)

    def put_agent(self, row: AgentRow) -> None:
        """See ``Tables``."""
        self._set(self._agents, (row.topic, row.agent), replace(row))

    def agents(self) -> list[AgentRow]:
        """See ``Tables``."""
        return [replace(self._agents[key]) for key in sorted(self._agents)]

    def next_generation(self, group: Group) -> int:
        """See ``Tables``."""
        number = self._generations.get(group, 0) + 1
        self._set(self._generations, group, number)
        return number

    def run(self, topic: str, agent: str, event_id: str) -> RunRow | None:
        """See ``Tables``."""
        row = self._runs.get((topic, agent, event_id))
        return None if row is None else copy_run(row)

    def put_run(self, row: RunRow) -> None:
        """See ``Tables``."""
        key = (row.group.topic, row.group.agent, row.event_id)
        stream = self._streams.get(key)
        if stream is not None and row.chunks < len(stream.chunks):
            self._set(self._streams, key, None)  # a run of that event which came before this one
        self._set_run(key, copy_run(row))
        if row.expires is not None:
            heappush(self._expiries, (row.expires, "run", key))

    def drop_run(self, row: RunRow) -> None:
        """See ``Tables``."""
        key = (row.group.topic, row.group.agent, row.event_id)
        self._set_run(key, None)
        self._set(self._streams, key, None)

    def _set_run(self, key: Key, row: RunRow | None) -> None:
        old = self._runs.get(key)
        self._undo.append(lambda: self._runs.set(key, old))
        self._runs.set(key, row)

    def ready(self, group: Group, until: float, limit: int, *, suspect: bool, expired: bool) -> list[RunRow]:
        """See ``Tables``."""
        found: list[RunRow] = []
        for row in self._runs.ready(group, until, suspect=suspect):
            if len(found) == limit:
                break
            if expired or row.token is None:
                found.append(copy_run(row))
        return found

    def next_ready(self, group: Group) -> float | None:
        """See ``Tables``."""
        return self._runs.next_ready(group)

    def claimed_by(self, worker: str, prefix: str) -> list[RunRow]:
        """See ``Tables``."""
        return [copy_run(row) for row in self._runs.claimed(worker, prefix)]

    def lane(self, group: Group, lane: str, *, before: float | None = None, last: bool = False) -> RunRow | None:
        """See ``Tables``."""
        row = self._runs.lane(group, lane, before, last=last)
        return None if row is None else copy_run(row)

    def drop_live(self, group: Group) -> int:
        """See ``Tables``."""
        rows = self._runs.live(group)
        for row in reversed(rows):  # the indexes are sorted lists, which lose their end for nothing
            self.drop_run(row)
        return len(rows)

    def tally(self, group: Group) -> dict[str, int]:
        """See ``Tables``."""
        live = self._runs.live(group)
        return {
            "inbox": sum(1 for row in live if row.inbox and row.state is not TaskState.INPUT_REQUIRED),
            "working": sum(1 for row in live if row.token is not None),
            "waiting": sum(1 for row in live if row.state is TaskState.INPUT_REQUIRED),
            "dead_letters": self._runs.dead(group.topic, group.agent),
        }

    def query(self, query: Query, now: float, after: tuple[float, str] | None, limit: int) -> list[RunRow]:
        """See ``Tables``."""
        place = None
        if after is not None:
            event_id, agent, topic = after[1].rsplit("|", 2)
            place = (after[0], event_id, agent, topic)
        found: list[RunRow] = []
        for row in self._runs.newest(query, place):
            if len(found) == limit:
                break
            if (row.expires is None or row.expires > now) and _matches(row, query):
                found.append(copy_run(row))
        return found

    def mark(self, group: Group, event_id: str) -> bool:
        """See ``Tables``."""
        return event_id in self._marks.get(group, {})

    def put_mark(self, group: Group, event_id: str, settled: float, until: float) -> None:
        """See ``Tables``."""
        marks = self._marks.setdefault(group, {})
        self._set(marks, event_id, (settled, until))

    def drop_marks(self, group: Group, settled_before: float, now: float) -> int:
        """See ``Tables``."""
        marks = self._marks.get(group, {})
        old = [id_ for id_, (settled, until) in marks.items() if settled < settled_before and until <= now]
        for event_id in old:
            self._set(marks, event_id, None)
        return len(old)

    def put_outbox(self, row: OutboxRow) -> bool:
        """See ``Tables``."""
        if self._outbox.get(row.event.id) is not None:
            return False
        self._set_outbox(row.event.id, replace(row))
        return True

    def lease_outbox(self, now: float, until: float, limit: int) -> list[OutboxRow]:
        """See ``Tables``."""
        leased = [replace(row, leased_until=until) for row in self._outbox.free(now, limit)]
        for row in leased:
            self._set_outbox(row.event.id, replace(row))
        return leased

    def next_outbox(self) -> float | None:
        """See ``Tables``."""
        return self._outbox.next_free(self._now)

    def drop_outbox(self, ids: Sequence[str]) -> None:
        """See ``Tables``."""
        for name in ids:
            self._set_outbox(name, None)

    def unsent(self, group: Group, event_id: str | None) -> list[str]:
        """See ``Tables``."""
        return self._outbox.unsent(group, event_id)

    def _set_outbox(self, name: str, row: OutboxRow | None) -> None:
        old = self._outbox.get(name)
        self._undo.append(lambda: self._outbox.set(name, old))
        self._outbox.set(name, row)

    def add_counts(self, topic: str, agent: str, minute: int, counts: Counts) -> None:
        """See ``Tables``."""
        minutes = self._counts.setdefault((topic, agent), {})
        for period in (None, minute):
            sums = minutes.setdefault(period, {})
            for name, value in counts:
                self._set(sums, name, sums.get(name, 0.0) + value)

    def counts(self, topic: str | None, agent: str | None, first: int | None, last: int | None) -> list[MetricRow]:
        """See ``Tables``."""
        rows: list[MetricRow] = []
        for key, minutes in sorted(self._counts.items()):
            if (topic is not None and key[0] != topic) or (agent is not None and key[1] != agent):
                continue
            row = MetricRow(*key, counts={})
            for minute, sums in minutes.items():
                if _within(minute, first, last):
                    for name, value in sums.items():
                        row.counts[name] = row.counts.get(name, 0.0) + value
            if row.counts:
                rows.append(row)
        return rows

    def drop_counts(self) -> int:
        """See ``Tables``."""
        old = self._counts
        self._undo.append(lambda: setattr(self, "_counts", old))
        self._counts = {}
        return sum(len(sums) for minutes in old.values() for sums in minutes.values())

    def add_chunk(self, row: RunRow, number: int, chunk: bytes, expires: float) -> None:
        """See ``Tables``."""
        key = (row.group.topic, row.group.agent, row.event_id)
        old = self._streams.get(key, _Stream())
        self._set(self._streams, key, _Stream(expires, {**old.chunks, number: chunk}))
        heappush(self._expiries, (expires, "stream", key))

    def chunks(
        self, topic: str, agent: str, event_id: str, after: int, limit: int, now: float
    ) -> list[tuple[int, bytes]]:
        """See ``Tables``."""
        stream = self._streams.get((topic, agent, event_id))
        if stream is None or stream.expires <= now:
            return []
        return [(number, chunk) for number, chunk in stream.chunks.items() if number > after][:limit]

    def kv(self, ns: str, key: str) -> KvRow | None:
        """See ``Tables``."""
        row = self._values.get((ns, key))
        return None if row is None else KvRow(key, row.value, row.version, row.expires)

    def put_kv(self, ns: str, row: KvRow) -> None:
        """See ``Tables``."""
        self._set_value(ns, row.key, replace(row))
        if row.expires is not None:
            heappush(self._expiries, (row.expires, "value", (ns, row.key)))

    def drop_kv(self, ns: str, key: str) -> None:
        """See ``Tables``."""
        self._set_value(ns, key, None)

    def kvs(self, ns: str, after: str | None, now: float, limit: int) -> list[KvRow]:
        """See ``Tables``."""
        names = self._names.items(ns)
        found: list[KvRow] = []
        for place in range(0 if after is None else bisect_right(names, after), len(names)):
            if len(found) == limit:
                break
            row = self._values[ns, names[place]]
            if row.expires is None or row.expires > now:
                found.append(replace(row))
        return found

    def _set_value(self, ns: str, key: str, row: KvRow | None) -> None:
        old = self._values.pop((ns, key), None)
        self._undo.append(lambda: self._set_value(ns, key, old))
        if old is not None:
            self._names.remove(ns, key)
        if row is not None:
            self._values[ns, key] = row
            self._names.add(ns, key)

    def sweep(self, now: float, limit: int) -> int:
        """See ``Tables``. Sums of single minutes go after 35 days; those since ever stay."""
        removed = self._sweep_minutes(int(now // 60) - _MINUTES_KEPT)
        while removed < limit and self._expiries and self._expiries[0][0] <= now:
            entry = heappop(self._expiries)
            self._undo.append(partial(heappush, self._expiries, entry))
            removed += self._expire(*entry)
        return removed

    def _sweep_minutes(self, first: int) -> int:
        removed = 0
        for minutes in self._counts.values():
            for minute in [minute for minute in minutes if minute is not None and minute < first]:
                removed += 1
                self._set(minutes, minute, None)
        return removed

    def _expire(self, expires: float, what: str, key: tuple[str, ...]) -> bool:
        """Remove a row unless it has got another time since; return whether it went."""
        if what == "run":
            run = self._runs.get((key[0], key[1], key[2]))
            if run is None or run.expires != expires:
                return False
            self.drop_run(run)
        elif what == "stream":
            stream = self._streams.get((key[0], key[1], key[2]))
            if stream is None or stream.expires != expires:
                return False
            self._set(self._streams, (key[0], key[1], key[2]), None)
        else:
            value = self._values.get((key[0], key[1]))
            if value is None or value.expires != expires:
                return False
            self._set_value(key[0], key[1], None)
        return True

    def _set(self, rows: dict[K, V], key: K, row: V | None) -> None:
        """Replace, insert or (None) remove an entry of a plain dictionary."""
        old = rows.pop(key, None)
        self._undo.append(partial(_restore, rows, key, old))
        _restore(rows, key, row)


def _restore(rows: dict[K, V], key: K, row: V | None) -> None:
    if row is None:
        rows.pop(key, None)
    else:
        rows[key] = row


def _within(minute: int | None, first: int | None, last: int | None) -> bool:
    if minute is None:
        return first is None and last is None
    return first is not None and last is not None and first <= minute < last


def _matches(row: RunRow, query: Query) -> bool:
    topic, agent, _ = row.group
    return (
        (query.topic is None or query.topic == topic)
        and (query.agent is None or query.agent == agent)
        and (query.event_ids is None or row.event_id in query.event_ids)
        and (query.states is None or row.state in query.states)
        and (query.dead is None or query.dead is (row.dead is not None))
        and (query.tenant is None or query.tenant == row.tenant)
        and (query.since is None or query.since <= row.updated)
        and (query.until is None or query.until > row.updated)
    )


if TYPE_CHECKING:
    _: type[Tables] = MemoryTables
