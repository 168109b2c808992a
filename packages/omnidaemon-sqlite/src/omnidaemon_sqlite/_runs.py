"""Agents, runs and done marks of one namespace in one open transaction."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from heapq import merge
from itertools import islice
from typing import Any

from omnidaemon.model.run import Group
from omnidaemon.ports.ledger import RunRow
from omnidaemon.ports.store import AgentRow, Query
from omnidaemon_sqlite._rows import CLAIMED, INBOX, READ_RUN, WAITING, WRITE_RUN, run_of, values_of
from omnidaemon_sqlite._session import Session

__all__ = ["RunTables"]

# Order, topic, agent and columns of a run.
_Found = tuple[tuple[float, str, str, str], str, str, tuple[Any, ...]]

# Rows that one transaction removes, so that a large table holds nobody up.
CHUNK = 2000
_FROM_RUNS = f"SELECT {READ_RUN} FROM runs"  # noqa: S608 - our columns
_AGENT = "SELECT topic, agent, epoch, deleted, data, registered_at FROM agents WHERE epoch IS NOT NULL AND space = ?"


class RunTables:
    """The part of ``Tables`` that has to do with runs.

    Args:
        session: The transaction.
        space: Number of the namespace.
        now: The store's clock.
    """

    def __init__(self, session: Session, space: int, now: float) -> None:
        self._session = session
        self._execute = session.connection.execute
        self._space = space
        self._now = now

    def now(self) -> float:
        """See ``Tables``."""
        return self._now

    def known(self, topic: str, agent: str) -> int | None:
        """Return the number of an agent's name, if it has one."""
        return self._session.once(("agent", self._space, topic, agent), lambda: self._known(topic, agent))

    def _known(self, topic: str, agent: str) -> int | None:
        row = self._execute(
            "SELECT id FROM agents WHERE space = ? AND topic = ? AND agent = ?", (self._space, topic, agent)
        ).fetchone()
        return None if row is None else int(row[0])

    def number(self, topic: str, agent: str) -> int:
        """Return the number of an agent's name, and give it one on first use."""
        known = self.known(topic, agent)
        if known is None:
            self._execute("INSERT INTO agents (space, topic, agent) VALUES (?, ?, ?)", (self._space, topic, agent))
            known = self.known(topic, agent)
            assert known is not None  # noqa: S101 - just inserted
        return known

    def agent(self, topic: str, agent: str) -> AgentRow | None:
        """See ``Tables``."""
        row = self._session.once(
            ("row", self._space, topic, agent),
            lambda: self._execute(f"{_AGENT} AND topic = ? AND agent = ?", (self._space, topic, agent)).fetchone(),
        )
        return None if row is None else _agent_of(row)

    def put_agent(self, row: AgentRow) -> None:
        """See ``Tables``."""
        self._session.forget(("row", self._space, row.topic, row.agent))
        self._execute(
            "UPDATE agents SET epoch = ?, deleted = ?, data = ?, registered_at = ? WHERE id = ?",
            (row.epoch, row.deleted, row.data, row.registered_at, self.number(row.topic, row.agent)),
        )

    def agents(self) -> list[AgentRow]:
        """See ``Tables``."""
        rows = self._execute(f"{_AGENT} ORDER BY topic, agent", (self._space,))
        return [_agent_of(row) for row in rows]

    def next_generation(self, group: Group) -> int:
        """See ``Tables``."""
        row = self._execute(
            "INSERT INTO generations (agent, epoch, last) VALUES (?, ?, 1)"
            " ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last",
            (self.number(group.topic, group.agent), group.epoch),
        ).fetchone()
        return int(row[0])

    def run(self, topic: str, agent: str, event_id: str) -> RunRow | None:
        """See ``Tables``."""
        rows = self._rows(topic, agent, "agent = ? AND event = ?", self.known(topic, agent), event_id)
        return rows[0] if rows else None

    def put_run(self, row: RunRow) -> None:
        """See ``Tables``."""
        self._execute(WRITE_RUN, values_of(self.number(row.group.topic, row.group.agent), row))

    def drop_run(self, row: RunRow) -> None:
        """See ``Tables``."""
        agent = self.number(row.group.topic, row.group.agent)
        self._execute("DELETE FROM runs WHERE agent = ? AND event = ?", (agent, row.event_id))
        self._drop_stream(agent, row.event_id)

    def _drop_stream(self, agent: int, event_id: str) -> bool:
        """Remove a run's progress; return whether there was some."""
        found = self._execute("DELETE FROM streams WHERE agent = ? AND event = ?", (agent, event_id)).rowcount
        if found:
            self._execute("DELETE FROM chunks WHERE agent = ? AND event = ?", (agent, event_id))
        return bool(found)

    def ready(self, group: Group, until: float, limit: int, *, suspect: bool, expired: bool) -> list[RunRow]:
        """See ``Tables``."""
        return self._of(
            group,
            "suspect = ? AND ready IS NOT NULL AND ready <= ? AND (? OR token IS NULL) ORDER BY ready, id LIMIT ?",
            *(suspect, until, expired, limit),
        )

    def next_ready(self, group: Group) -> float | None:
        """See ``Tables``."""
        row = self._execute(
            "SELECT ready FROM runs WHERE agent = ? AND epoch = ? AND suspect = 0 AND ready IS NOT NULL"
            " ORDER BY ready LIMIT 1",
            (self.known(group.topic, group.agent), group.epoch),
        ).fetchone()
        return None if row is None else float(row[0])

    def claimed_by(self, worker: str, prefix: str) -> list[RunRow]:
        """See ``Tables``."""
        rows = self._execute(
            f"SELECT agents.topic, agents.agent, {READ_RUN}"  # noqa: S608 - our columns
            " FROM runs INDEXED BY runs_token CROSS JOIN agents ON agents.id = runs.agent"
            " WHERE runs.token IS NOT NULL AND runs.token >= ? AND runs.token < ? AND runs.worker = ?"
            " AND agents.space = ? ORDER BY length(runs.token), runs.token",  # as they were given
            (prefix, prefix + chr(0x10FFFF), worker, self._space),
        )
        return [run_of(row[0], row[1], row[2:]) for row in rows.fetchall()]

    def lane(self, group: Group, lane: str, *, before: float | None = None, last: bool = False) -> RunRow | None:
        """See ``Tables``."""
        where, values = "lane = ? AND lane_seq IS NOT NULL", [lane]
        order = "DESC" if last or before is not None else "ASC"
        rows = self._of(
            group,
            f"{where}{'' if before is None else ' AND lane_seq < ?'} ORDER BY lane_seq {order}, id {order} LIMIT 1",
            *values,
            *([] if before is None else [before]),
        )
        return rows[0] if rows else None

    def drop_live(self, group: Group) -> int:
        """See ``Tables``."""
        live = "agent = ? AND epoch = ? AND live > 0"
        values = (self.known(group.topic, group.agent), group.epoch)
        for table in ("chunks", "streams"):
            self._execute(
                f"DELETE FROM {table} WHERE agent = ? AND event IN (SELECT event FROM runs WHERE {live})",  # noqa: S608 - ours
                (values[0], *values),
            )
        return self._execute(f"DELETE FROM runs WHERE {live}", values).rowcount  # noqa: S608 - ours

    def _of(self, group: Group, where: str, *values: object) -> list[RunRow]:
        """Return the group's runs that satisfy a condition."""
        agent = self.known(group.topic, group.agent)
        return self._rows(group.topic, group.agent, f"agent = ? AND epoch = ? AND {where}", agent, group.epoch, *values)

    def _rows(self, topic: str, agent: str, where: str, *values: object) -> list[RunRow]:
        rows = self._execute(f"{_FROM_RUNS} WHERE {where}", values).fetchall()
        return [run_of(topic, agent, row) for row in rows]

    def query(self, query: Query, now: float, after: tuple[float, str] | None, limit: int) -> list[RunRow]:
        """See ``Tables``."""
        with closing(self._newest(query, now, after)) as rows:
            return [run_of(topic, agent, row) for _, topic, agent, row in islice(rows, limit)]

    def _newest(self, query: Query, now: float, after: tuple[float, str] | None) -> Generator[_Found]:
        """Merge what each agent has, by (updated, event id, agent, topic) descending, row by row."""
        conditions = _conditions(query, now)
        place = None
        if after is not None:
            event_id, agent, topic = after[1].rsplit("|", 2)
            place = (after[0], event_id, agent, topic)
        agents = self._execute(
            "SELECT id, topic, agent FROM agents WHERE space = ? AND (?2 IS NULL OR topic = ?2)"
            " AND (?3 IS NULL OR agent = ?3)",
            (self._space, query.topic, query.agent),
        ).fetchall()
        streams = [self._newest_of(number, topic, agent, conditions, place) for number, topic, agent in agents]
        yield from merge(*streams, key=_order, reverse=True)

    def _newest_of(
        self,
        number: int,
        topic: str,
        agent: str,
        conditions: tuple[str, str, list[object]],
        place: tuple[float, str, str, str] | None,
    ) -> Iterator[_Found]:
        index, where, values = conditions
        if place is not None:
            # What equals the place in time and event lies behind it if its agent and topic do.
            behind = "<=" if (agent, topic) < place[2:] else "<"
            where += f" AND (updated, event) {behind} (?, ?)"
            values = [*values, *place[:2]]
        rows = self._execute(
            f"SELECT updated, event, {READ_RUN} FROM runs{index} WHERE agent = ?{where}"  # noqa: S608 - our columns
            " ORDER BY updated DESC, event DESC",
            (number, *values),
        )
        for row in rows:
            yield (row[0], row[1], agent, topic), topic, agent, row[2:]

    def tally(self, group: Group) -> dict[str, int]:
        """See ``Tables``."""
        agent = self.known(group.topic, group.agent)
        kinds: list[tuple[int, int]] = self._execute(
            "SELECT live, count(*) FROM runs WHERE agent = ? AND epoch = ? AND live > 0 GROUP BY live",
            (agent, group.epoch),
        ).fetchall()
        (dead,) = self._execute(
            "SELECT count(*) FROM runs WHERE agent = ? AND dead IS NOT NULL AND (expires IS NULL OR expires > ?)",
            (agent, self._now),
        ).fetchone()
        return {
            "inbox": sum(number for kind, number in kinds if kind & INBOX and not kind & WAITING),
            "working": sum(number for kind, number in kinds if kind & CLAIMED),
            "waiting": sum(number for kind, number in kinds if kind & WAITING),
            "dead_letters": dead,
        }

    def mark(self, group: Group, event_id: str) -> bool:
        """See ``Tables``."""
        found = self._execute(
            "SELECT 1 FROM marks WHERE agent = ? AND epoch = ? AND event = ?",
            (self.known(group.topic, group.agent), group.epoch, event_id),
        ).fetchone()
        return found is not None

    def put_mark(self, group: Group, event_id: str, settled: float, until: float) -> None:
        """See ``Tables``."""
        self._execute(
            "INSERT OR REPLACE INTO marks (agent, epoch, event, settled, until) VALUES (?, ?, ?, ?, ?)",
            (self.number(group.topic, group.agent), group.epoch, event_id, settled, until),
        )

    def drop_marks(self, group: Group, settled_before: float, now: float) -> int:
        """See ``Tables``. Without an end in time all go, else at most ``CHUNK``."""
        return self._execute(
            "DELETE FROM marks WHERE agent = ?1 AND epoch = ?2 AND event IN (SELECT event FROM marks"
            " WHERE agent = ?1 AND epoch = ?2 AND settled < ?3 AND until <= ?4 LIMIT ?5)",
            (
                self.known(group.topic, group.agent),
                group.epoch,
                settled_before,
                now,
                -1 if settled_before == float("inf") else CHUNK,
            ),
        ).rowcount


def _agent_of(row: tuple[Any, ...]) -> AgentRow:
    topic, agent, epoch, deleted, data, registered_at = row
    return AgentRow(topic, agent, epoch, bool(deleted), data, registered_at)


def _order(found: _Found) -> tuple[float, str, str, str]:
    return found[0]


def _conditions(query: Query, now: float) -> tuple[str, str, list[object]]:
    """Return what a query asks for besides topic and agent: an index, SQL conditions and their values."""
    index = ""
    parts: list[tuple[str, list[object]]] = [("(expires IS NULL OR expires > ?)", [now])]
    if query.event_ids is not None:
        ids = list(dict.fromkeys(query.event_ids))
        parts.append((f"event IN ({', '.join('?' * len(ids))})", [*ids]))
    elif query.dead:
        index = " INDEXED BY runs_dead"
    elif query.states is not None and not any(state.final for state in query.states):
        index = " INDEXED BY runs_live"
        parts.append(("live > 0", []))
    if query.states is not None:
        parts.append((f"state IN ({', '.join('?' * len(query.states))})", [state.value for state in query.states]))
    if query.dead is not None:
        parts.append((f"dead IS {'NOT ' if query.dead else ''}NULL", []))
    if query.tenant is not None:
        parts.append(("tenant = ?", [query.tenant]))
    if query.since is not None:
        parts.append(("updated >= ?", [query.since]))
    if query.until is not None:
        parts.append(("updated < ?", [query.until]))
    return index, "".join(f" AND {text}" for text, _ in parts), [value for _, values in parts for value in values]
