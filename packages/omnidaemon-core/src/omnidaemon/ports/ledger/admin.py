"""The rest of the store's contract over tables: agents, decisions, progress, records, small values."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence

from omnidaemon.model.run import Group, Hold, Record, TaskState
from omnidaemon.ports.ledger.lanes import enter, is_head, leave
from omnidaemon.ports.ledger.tables import KvRow, RunRow, Tables
from omnidaemon.ports.store import AgentRow, Decision, MetricRow, Page, Put, Query, Retired, Versioned

__all__ = ["LedgerAdmin"]

# Rows that one step removes, so that a large table holds nobody up.
_SWEPT = 1000


class LedgerAdmin:
    """What reads the ledger from outside or changes it by command."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.now = tables.now()

    def current(self, group: Group) -> bool:
        """Return whether the group's epoch has not ended."""
        row = self.tables.agent(group.topic, group.agent)
        return row is not None and row.epoch == group.epoch

    def alive(self, group: Group) -> bool:
        """Return whether the group's epoch has not ended and its agent is not deleted."""
        row = self.tables.agent(group.topic, group.agent)
        return row is not None and row.epoch == group.epoch and not row.deleted

    def live_or_final(self, group: Group, event_id: str) -> RunRow | None:
        """Return the run of this epoch, unless it has expired."""
        row = self.tables.run(group.topic, group.agent, event_id)
        if row is None or row.group != group or (row.expires is not None and row.expires <= self.now):
            return None
        return row

    def owned(self, hold: Hold) -> RunRow | None:
        """Return the run that ``hold`` still owns, expired lease or not."""
        row = self.live_or_final(hold.group, hold.event_id)
        if row is None or row.token != hold.token or row.state.final or not self.current(hold.group):
            return None
        return row

    def enroll(self, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
        """See :meth:`omnidaemon.ports.store.Store.enroll`."""
        row = self.tables.agent(topic, agent)
        deleted = row is not None and row.deleted
        if row is None:
            row = AgentRow(topic, agent, 1, False, data, self.now)
        elif deleted:
            row.registered_at = self.now
        row.deleted, row.data = False, data
        self.tables.put_agent(row)
        return row, deleted

    def retire(self, topic: str, agent: str, *, group: bool, dead_letters: bool) -> Retired:
        """See :meth:`omnidaemon.ports.store.Store.retire`."""
        tables, row = self.tables, self.tables.agent(topic, agent)
        if row is None:
            return Retired(existed=False)
        gone = Retired(existed=not row.deleted)
        if dead_letters:
            gone.dead_letters = self.remove(Query(topic=topic, agent=agent, dead=True))
        if group:
            old = row.group
            gone.inbox = tables.drop_live(old)
            unsent = tables.unsent(old, None)
            gone.outbox = len(unsent)
            tables.drop_outbox(unsent)
            tables.drop_marks(old, float("inf"), float("inf"))
            row.epoch += 1
        row.deleted = True
        tables.put_agent(row)
        return gone

    def decide(self, decision: Decision) -> str:
        """See :meth:`omnidaemon.ports.store.Store.decide`."""
        group = decision.group
        if not self.current(group):
            return "gone"
        row = self.tables.run(group.topic, group.agent, decision.event_id)
        if row is not None and row.expires is not None and row.expires <= self.now:
            row = None
        if row is not None and row.group != group and decision.verb == "cancel":
            # What an ended epoch left is no reason not to cancel what this one has yet to meet (C2, M8).
            self.tables.drop_run(row)
            row = None
        if row is not None and row.op == decision.op:
            return "done"
        if decision.verb == "cancel":
            return self._cancel(row, decision)
        if decision.verb == "answer":
            return self._answer(row, decision)
        if decision.verb == "replay":
            return self._replay(row, decision)
        return self._rerun(row, decision)

    def _cancel(self, row: RunRow | None, decision: Decision) -> str:
        now, group = self.now, decision.group
        if row is None:
            if self.tables.mark(group, decision.event_id):
                return "finished"
            row = RunRow(group=group, event_id=decision.event_id, created=now, data=decision.data)
        elif row.state.final:
            return row.state.value
        row.state, row.token, row.inbox, row.due = TaskState.CANCELED, None, False, None
        row.op, row.updated, row.expires = decision.op, now, now + decision.ttl
        self.tables.put_mark(group, row.event_id, now, now + decision.ttl)
        self.tables.put_run(row)
        leave(self.tables, row, now)
        self.tables.add_counts(group.topic, group.agent, int(now // 60), [("canceled", 1)])
        return "done"

    def _answer(self, row: RunRow | None, decision: Decision) -> str:
        if row is None:
            return "unknown"
        if row.state is not TaskState.INPUT_REQUIRED or row.question != decision.question or row.token:
            return "stale"
        row.notes[f"answer:{decision.question}"] = decision.value
        row.question = None
        self._reopen(row, decision)
        return "done"

    def _replay(self, row: RunRow | None, decision: Decision) -> str:
        if row is None:
            return "unknown"
        if row.dead is None:
            return row.state.value
        row.attempt = 1
        self._reopen(row, decision)
        return "done"

    def _rerun(self, row: RunRow | None, decision: Decision) -> str:
        if row is not None and not row.state.final:
            return "busy"
        if row is not None:
            self.tables.drop_run(row)
        row = RunRow(group=decision.group, event_id=decision.event_id, created=self.now, tenant=decision.tenant)
        row.body, row.data, row.lane = decision.body, decision.data, decision.lane
        self._reopen(row, decision)
        return "done"

    def _reopen(self, row: RunRow, decision: Decision) -> None:
        """Open the next generation, behind whatever waits in its lane (M7, M9)."""
        row.group = decision.group
        row.generation = self.tables.next_generation(decision.group)
        row.state, row.dead, row.result, row.expires = TaskState.SUBMITTED, None, None, None
        row.lost, row.token, row.op = 0, None, decision.op
        row.inbox, row.due, row.updated = True, self.now, self.now
        row.lane_seq = None
        if row.lane is not None:
            enter(self.tables, row, row.lane)
        row.blocked = not is_head(self.tables, row)
        self.tables.put_run(row)

    def append(self, hold: Hold, chunks: Sequence[bytes], keep: float) -> bool:
        """See :meth:`omnidaemon.ports.store.Store.append`."""
        row = self.owned(hold)
        if row is None:
            return False
        for chunk in chunks:
            row.chunks += 1
            self.tables.add_chunk(row, row.chunks, chunk, self.now + keep)
        self.tables.put_run(row)
        return True

    def follow(self, topic: str, agent: str, event_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See :meth:`omnidaemon.ports.store.Store.follow`."""
        return self.tables.chunks(topic, agent, event_id, after, limit, self.now)

    def note(self, hold: Hold, key: str, value: bytes) -> bool:
        """See :meth:`omnidaemon.ports.store.Store.note`."""
        row = self.owned(hold)
        if row is not None:
            row.notes[key] = value
            self.tables.put_run(row)
        return row is not None

    def notes(self, group: Group, event_id: str) -> dict[str, bytes]:
        """See :meth:`omnidaemon.ports.store.Store.notes`."""
        row = self.live_or_final(group, event_id)
        return {} if row is None else dict(row.notes)

    def records(self, query: Query, cursor: str | None, limit: int) -> Page[Record]:
        """See :meth:`omnidaemon.ports.store.Store.records`."""
        after = None
        if cursor is not None:
            updated, name = json.loads(base64.urlsafe_b64decode(cursor))
            after = (float(updated), str(name))
        rows = self.tables.query(query, self.now, after, limit + 1)
        following = None
        if len(rows) > limit:
            last = rows[limit - 1]
            key = [last.updated, f"{last.event_id}|{last.group.agent}|{last.group.topic}"]
            following = base64.urlsafe_b64encode(json.dumps(key).encode()).decode()
        return Page([row.record() for row in rows[:limit]], following)

    def remove(self, query: Query) -> int:
        """See :meth:`omnidaemon.ports.store.Store.remove`."""
        removed, after = 0, None
        while rows := self.tables.query(query, self.now, after, 500):
            for row in rows:
                if row.state.final:
                    self.tables.drop_run(row)
                    removed += 1
            last = rows[-1]
            after = (last.updated, f"{last.event_id}|{last.group.agent}|{last.group.topic}")
        return removed

    def count(self, group: Group) -> dict[str, int]:
        """See :meth:`omnidaemon.ports.store.Store.count`."""
        return self.tables.tally(group)

    def forget(self, group: Group, before: float) -> int:
        """See :meth:`omnidaemon.ports.store.Store.forget`."""
        self.sweep()
        return self.tables.drop_marks(group, before, self.now)

    def sweep(self) -> bool:
        """Physically remove some of what has expired; return whether there may be more."""
        return self.tables.sweep(self.now, _SWEPT) >= _SWEPT

    def metrics(
        self, topic: str | None, agent: str | None, since: float | None, until: float | None
    ) -> list[MetricRow]:
        """See :meth:`omnidaemon.ports.store.Store.metrics`."""
        if since is None and until is None:
            return self.tables.counts(topic, agent, None, None)
        first = int((since or 0.0) // 60)
        last = int(self.now // 60) + 1 if until is None else math.ceil(until / 60)
        return self.tables.counts(topic, agent, first, last)

    def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """See :meth:`omnidaemon.ports.store.Store.get`."""
        return [None if row is None else Versioned(row.key, row.value, row.version) for row in self._kv(ns, keys)]

    def _kv(self, ns: str, keys: Sequence[str]) -> list[KvRow | None]:
        rows = [self.tables.kv(ns, key) for key in keys]
        return [None if row is None or (row.expires is not None and row.expires <= self.now) else row for row in rows]

    def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """See :meth:`omnidaemon.ports.store.Store.put`."""
        if any(item.ttl is not None for item in items):
            self.sweep()  # what expires makes room as it comes: a namespace may have no group to forget for
        answers = []
        for item in items:
            row = self._kv(ns, [item.key])[0]
            version = 0 if row is None else row.version
            answers.append(item.expect is None or item.expect == version)
            if not answers[-1]:
                continue
            if item.value is None:
                self.tables.drop_kv(ns, item.key)
            else:
                expires = None if item.ttl is None else self.now + item.ttl
                self.tables.put_kv(ns, KvRow(item.key, item.value, version + 1, expires))
        return answers

    def scan(self, ns: str, cursor: str | None, limit: int) -> Page[Versioned]:
        """See :meth:`omnidaemon.ports.store.Store.scan`."""
        rows = self.tables.kvs(ns, cursor, self.now, limit + 1)
        items = [Versioned(row.key, row.value, row.version) for row in rows[:limit]]
        return Page(items, items[-1].key if len(rows) > limit else None)
