"""What a ledger needs of a store: rows, and the few indexes it reads them by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omnidaemon.model.run import Counts, Group, Outgoing, Record, TaskState
from omnidaemon.ports.store import AgentRow, MetricRow, Query

__all__ = ["KvRow", "OutboxRow", "RunRow", "Tables"]

SUSPECT_AFTER = 2


@dataclass(slots=True)
class RunRow:
    """A run: claim, attempts, state, result and event in one place (S10). Key: topic, agent, event id.

    Attributes:
        token: The live claim's token; ``lease_until`` is its end on the store's clock.
        spent: Token of the last accepted settle, so that repeating it changes nothing (S9).
        op: Id of the last decision, so that repeating it changes nothing (M7).
        inbox: The store holds the event, and only ``due`` hands it out (D15).
        due: When it may run; None when it waits for something else.
        blocked: It waits for its lane.
        lane_seq: Its place in the lane; None when it is in none.
        position: The event's on the bus, for finding that place; of a place that is only reserved,
            and of what has none, its neighbour's.
        chunks: Number of progress chunks so far.
    """

    group: Group
    event_id: str
    state: TaskState = TaskState.SUBMITTED
    generation: int = 0
    attempt: int = 1
    starts: int = 0
    lost: int = 0
    token: str | None = None
    worker: str | None = None
    lease_until: float = 0.0
    spent: str | None = None
    op: str | None = None
    inbox: bool = False
    due: float | None = None
    blocked: bool = False
    lane: str | None = None
    lane_seq: float | None = None
    position: str = ""
    question: str | None = None
    dead: str | None = None
    tenant: str | None = None
    created: float = 0.0
    updated: float = 0.0
    expires: float | None = None
    chunks: int = 0
    data: bytes = b""
    result: bytes | None = None
    body: bytes = b""
    notes: dict[str, bytes] = field(default_factory=dict)

    @property
    def suspect(self) -> bool:
        """Whether it has lost so many starts that it runs alone from now on (D11, M10)."""
        return self.lost >= SUSPECT_AFTER

    @property
    def ready(self) -> float | None:
        """When ``due`` may hand it out: the index that the inbox is read by."""
        if not self.inbox or self.state.final:
            return None
        if self.token is not None:
            return self.lease_until
        return None if self.blocked else self.due

    def record(self) -> Record:
        """Return the row as callers see it."""
        return Record(
            group=self.group,
            event_id=self.event_id,
            state=self.state,
            generation=self.generation,
            attempt=self.attempt,
            starts=self.starts,
            lost=self.lost,
            due=self.ready,
            worker=self.worker if self.token else None,
            question=self.question,
            dead=self.dead,
            tenant=self.tenant,
            created=self.created,
            updated=self.updated,
            expires=self.expires,
            data=self.data,
            result=self.result,
            body=self.body,
        )


@dataclass(slots=True)
class OutboxRow:
    """A follow-up or a delayed event; ``source`` is the group whose settle wrote it, if one did."""

    event: Outgoing
    due: float
    leased_until: float = 0.0
    source: Group | None = None
    source_event: str = ""


@dataclass(slots=True)
class KvRow:
    """A small value; ``expires`` on the store's clock."""

    key: str
    value: bytes
    version: int
    expires: float | None = None


class Tables(Protocol):
    """One open transaction. Rows that are returned may be changed and are written only by ``put_*``."""

    def now(self) -> float:
        """Return the store's clock; it must not move within a transaction."""
        ...

    def agent(self, topic: str, agent: str) -> AgentRow | None:
        """Return an agent's row, tombstone or not."""
        ...

    def put_agent(self, row: AgentRow) -> None:
        """Write an agent's row."""
        ...

    def agents(self) -> list[AgentRow]:
        """Return all, sorted by topic and agent."""
        ...

    def next_generation(self, group: Group) -> int:
        """Count up and return the group's generation counter, from 1 (M7)."""
        ...

    def run(self, topic: str, agent: str, event_id: str) -> RunRow | None:
        """Return a run, expired or not."""
        ...

    def put_run(self, row: RunRow) -> None:
        """Write a run and its index entries."""
        ...

    def drop_run(self, row: RunRow) -> None:
        """Remove a run, its notes and its progress."""
        ...

    def ready(self, group: Group, until: float, limit: int, *, suspect: bool, expired: bool) -> list[RunRow]:
        """Return runs of the epoch whose ``ready`` is at most ``until``, earliest first.

        Only suspects, or only others; those with a claim (then expired) only if ``expired``.
        """
        ...

    def next_ready(self, group: Group) -> float | None:
        """Return the smallest ``ready`` of the group that is no suspect."""
        ...

    def claimed_by(self, worker: str, prefix: str) -> list[RunRow]:
        """Return the runs whose token begins with ``prefix``."""
        ...

    def lane(self, group: Group, lane: str, *, before: float | None = None, last: bool = False) -> RunRow | None:
        """Return the first run of a lane; or its last; or the one just before a place."""
        ...

    def drop_live(self, group: Group) -> int:
        """Remove the group's runs that are not final, with notes and progress; return how many."""
        ...

    def tally(self, group: Group) -> dict[str, int]:
        """Return what :meth:`omnidaemon.ports.store.Store.count` does, without loading the rows.

        ``inbox`` leaves out what waits for an answer; dead letters are those of every epoch.
        """
        ...

    def mark(self, group: Group, event_id: str) -> bool:
        """Return whether the group has a done mark for the event."""
        ...

    def put_mark(self, group: Group, event_id: str, settled: float, until: float) -> None:
        """Write a done mark."""
        ...

    def drop_marks(self, group: Group, settled_before: float, now: float) -> int:
        """Drop marks settled before that time whose window has ended by ``now``; return how many."""
        ...

    def put_outbox(self, row: OutboxRow) -> bool:
        """Insert a row unless its event's id is there; return whether it was inserted."""
        ...

    def lease_outbox(self, now: float, until: float, limit: int) -> list[OutboxRow]:
        """Lease rows that are due, not leased and not held, by due time and then as they were inserted.

        Held is a row behind one of the same topic and key that is leased already, so that of one key
        nothing is published before what failed (S12).
        """
        ...

    def next_outbox(self) -> float | None:
        """Return when the next row that is not held is due or its lease ends."""
        ...

    def drop_outbox(self, ids: Sequence[str]) -> None:
        """Remove rows by their event's id."""
        ...

    def unsent(self, group: Group, event_id: str | None) -> list[str]:
        """Return ids of outbox rows written by a group, or by one of its runs."""
        ...

    def add_counts(self, topic: str, agent: str, minute: int, counts: Counts) -> None:
        """Add to the sums since ever and of the minute (minutes since the epoch)."""
        ...

    def counts(self, topic: str | None, agent: str | None, first: int | None, last: int | None) -> list[MetricRow]:
        """Return sums; ``first`` and ``last`` (exclusive) are minutes, both None for since ever."""
        ...

    def drop_counts(self) -> int:
        """Forget all sums."""
        ...

    def query(self, query: Query, now: float, after: tuple[float, str] | None, limit: int) -> list[RunRow]:
        """Return matching unexpired runs by ``(updated, event id, agent, topic)`` descending.

        ``after`` is the ``(updated, "event id|agent|topic")`` of the last one on the page before.
        """
        ...

    def add_chunk(self, row: RunRow, number: int, chunk: bytes, expires: float) -> None:
        """Write a progress chunk."""
        ...

    def chunks(
        self, topic: str, agent: str, event_id: str, after: int, limit: int, now: float
    ) -> list[tuple[int, bytes]]:
        """Return unexpired progress chunks numbered above ``after``."""
        ...

    def sweep(self, now: float, limit: int) -> int:
        """Physically remove what has expired, at most ``limit`` rows; return how many."""
        ...

    def kv(self, ns: str, key: str) -> KvRow | None:
        """Return a value, expired or not."""
        ...

    def put_kv(self, ns: str, row: KvRow) -> None:
        """Write a value."""
        ...

    def drop_kv(self, ns: str, key: str) -> None:
        """Remove a value."""
        ...

    def kvs(self, ns: str, after: str | None, now: float, limit: int) -> list[KvRow]:
        """Return unexpired values with keys above ``after``, by key."""
        ...
