"""The rows of a store: :class:`omnidaemon.ports.ledger.Tables` in one open transaction."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

from omnidaemon.model.run import Counts, Group, Outgoing
from omnidaemon.ports.ledger import KvRow, OutboxRow, RunRow, Tables
from omnidaemon.ports.store import MetricRow
from omnidaemon_sqlite._runs import RunTables

__all__ = ["SQLiteTables"]

EVER = -1
_MINUTES_KEPT = 35 * 24 * 60


class SQLiteTables(RunTables):
    """Runs, and besides them outbox, sums, progress and small values."""

    def put_outbox(self, row: OutboxRow) -> bool:
        """See ``Tables``."""
        event, source = row.event, row.source
        agent = None if source is None else self.number(source.topic, source.agent)
        epoch = None if source is None else source.epoch
        return (
            self._execute(
                "INSERT INTO outbox (space, id, topic, key, body, due, leased_until, free, agent, epoch, event)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    *(self._space, event.id, event.topic, event.key, event.body, row.due, row.leased_until),
                    *(max(row.due, row.leased_until), agent, epoch, row.source_event),
                ),
            ).rowcount
            == 1
        )

    def lease_outbox(self, now: float, until: float, limit: int) -> list[OutboxRow]:
        """See ``Tables``."""
        with closing(self._free_outbox(now)) as free:
            numbers = list(islice(free, limit))
        rows = [
            self._execute(
                "SELECT o.topic, o.id, o.body, o.key, o.due, a.topic, a.agent, o.epoch, o.event"
                " FROM outbox o LEFT JOIN agents a ON a.id = o.agent WHERE o.n = ?",
                (number,),
            ).fetchone()
            for number in numbers
        ]
        self._session.connection.executemany(
            "UPDATE outbox SET leased_until = ?, free = max(due, ?) WHERE n = ?",
            [(until, until, number) for number in numbers],
        )
        return [
            OutboxRow(
                Outgoing(topic, event_id, body, key),
                due,
                until,
                None if epoch is None else Group(source_topic, source_agent, epoch),
                source_event,
            )
            for topic, event_id, body, key, due, source_topic, source_agent, epoch, source_event in rows
        ]

    def next_outbox(self) -> float | None:
        """See ``Tables``."""
        with closing(self._free_outbox(self._now)) as free:
            if next(free, None) is not None:
                return self._now
        row = self._execute(
            "SELECT free FROM outbox WHERE space = ? AND free > ? ORDER BY free LIMIT 1", (self._space, self._now)
        ).fetchone()
        return None if row is None else float(row[0])

    def _free_outbox(self, now: float) -> Generator[int]:
        """Iterate over rows that are due, not leased, and behind no leased one of their key, in order."""
        held: set[tuple[str, str]] = set()
        for number, leased_until, topic, key in self._execute(
            "SELECT n, leased_until, topic, key FROM outbox WHERE space = ?1 AND due <= ?2"
            " AND (leased_until <= ?2 OR key IS NOT NULL) ORDER BY due, n",
            (self._space, now),
        ):
            if leased_until > now:
                if key is not None:
                    held.add((topic, key))
            elif (topic, key) not in held:
                yield number

    def drop_outbox(self, ids: Sequence[str]) -> None:
        """See ``Tables``."""
        self._session.connection.executemany(
            "DELETE FROM outbox WHERE space = ? AND id = ?", [(self._space, name) for name in ids]
        )

    def unsent(self, group: Group, event_id: str | None) -> list[str]:
        """See ``Tables``."""
        rows = self._execute(
            "SELECT id FROM outbox WHERE agent = ?1 AND epoch = ?2 AND (?3 IS NULL OR event = ?3) ORDER BY n",
            (self.known(group.topic, group.agent), group.epoch, event_id),
        )
        return [row[0] for row in rows]

    def add_counts(self, topic: str, agent: str, minute: int, counts: Counts) -> None:
        """See ``Tables``."""
        number = self.number(topic, agent)
        for name, value in counts:
            self._session.add_count((number, EVER, name), value)
            self._session.add_count((number, minute, name), value)

    def counts(self, topic: str | None, agent: str | None, first: int | None, last: int | None) -> list[MetricRow]:
        """See ``Tables``."""
        low, high = (EVER, EVER + 1) if first is None or last is None else (max(first, 0), last)
        rows: list[MetricRow] = []
        unwritten = self._session.unwritten_counts()
        for number, *name in self._execute(
            "SELECT id, topic, agent FROM agents WHERE space = ?1 AND (?2 IS NULL OR topic = ?2)"
            " AND (?3 IS NULL OR agent = ?3) ORDER BY topic, agent",
            (self._space, topic, agent),
        ).fetchall():
            sums: dict[str, float] = dict(
                self._execute(
                    "SELECT name, sum(value) FROM counts WHERE agent = ? AND minute >= ? AND minute < ? GROUP BY name",
                    (number, low, high),
                ).fetchall()
            )
            for (owner, minute, count), value in unwritten.items():
                if owner == number and low <= minute < high:
                    sums[count] = sums.get(count, 0.0) + value
            if sums:
                rows.append(MetricRow(name[0], name[1], sums))
        return rows

    def drop_counts(self) -> int:
        """See ``Tables``."""
        dropped = self._execute(
            "DELETE FROM counts WHERE agent IN (SELECT id FROM agents WHERE space = ?)", (self._space,)
        ).rowcount
        self._session.drop_counts()
        return dropped

    def add_chunk(self, row: RunRow, number: int, chunk: bytes, expires: float) -> None:
        """See ``Tables``."""
        agent = self.number(row.group.topic, row.group.agent)
        self._execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?)", (agent, row.event_id, expires))
        self._execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", (agent, row.event_id, number, chunk))

    def chunks(
        self, topic: str, agent: str, event_id: str, after: int, limit: int, now: float
    ) -> list[tuple[int, bytes]]:
        """See ``Tables``."""
        return self._execute(
            # Above the run's own number lies what an earlier run of that event left.
            "SELECT c.number, c.chunk FROM streams s JOIN runs r ON r.agent = s.agent AND r.event = s.event"
            " CROSS JOIN chunks c ON c.agent = s.agent AND c.event = s.event AND c.number <= r.chunks"
            " WHERE s.agent = ? AND s.event = ? AND s.expires > ? AND c.number > ? ORDER BY c.number LIMIT ?",
            (self.known(topic, agent), event_id, now, after, limit),
        ).fetchall()

    def sweep(self, now: float, limit: int) -> int:
        """See ``Tables``. Sums of single minutes go after 35 days; those since ever stay."""
        removed = self._execute(
            "DELETE FROM counts WHERE minute >= 0 AND minute < ? AND agent IN (SELECT id FROM agents WHERE space = ?)",
            (int(now // 60) - _MINUTES_KEPT, self._space),
        ).rowcount
        values = self._execute(
            "SELECT space, ns, key FROM kv INDEXED BY kv_expires"
            " WHERE expires IS NOT NULL AND expires <= ? AND space = ? LIMIT ?",
            (now, self._space, limit),
        ).fetchall()
        self._session.connection.executemany("DELETE FROM kv WHERE space = ? AND ns = ? AND key = ?", values)
        removed += len(values)
        for table in ("runs", "streams"):
            for agent, event_id in self._execute(
                f"SELECT x.agent, x.event FROM {table} x CROSS JOIN agents a ON a.id = x.agent"  # noqa: S608 - ours
                " WHERE x.expires IS NOT NULL AND x.expires <= ? AND a.space = ? LIMIT ?",
                (now, self._space, max(0, limit - removed)),
            ).fetchall():
                if table == "runs":
                    self._execute("DELETE FROM runs WHERE agent = ? AND event = ?", (agent, event_id))
                self._drop_stream(agent, event_id)
                removed += 1
        return removed

    def kv(self, ns: str, key: str) -> KvRow | None:
        """See ``Tables``."""
        row = self._execute(
            "SELECT key, value, version, expires FROM kv WHERE space = ? AND ns = ? AND key = ?",
            (self._space, ns, key),
        ).fetchone()
        return None if row is None else KvRow(*row)

    def put_kv(self, ns: str, row: KvRow) -> None:
        """See ``Tables``."""
        self._execute(
            "INSERT OR REPLACE INTO kv (space, ns, key, value, version, expires) VALUES (?, ?, ?, ?, ?, ?)",
            (self._space, ns, row.key, row.value, row.version, row.expires),
        )

    def drop_kv(self, ns: str, key: str) -> None:
        """See ``Tables``."""
        self._execute("DELETE FROM kv WHERE space = ? AND ns = ? AND key = ?", (self._space, ns, key))

    def kvs(self, ns: str, after: str | None, now: float, limit: int) -> list[KvRow]:
        """See ``Tables``."""
        above = ">=" if after is None else ">"
        rows = self._execute(
            f"SELECT key, value, version, expires FROM kv WHERE space = ? AND ns = ? AND key {above} ?"  # noqa: S608 - ours
            " AND (expires IS NULL OR expires > ?) ORDER BY key LIMIT ?",
            (self._space, ns, after or "", now, limit),
        ).fetchall()
        return [KvRow(*row) for row in rows]


if TYPE_CHECKING:
    _: type[Tables] = SQLiteTables
