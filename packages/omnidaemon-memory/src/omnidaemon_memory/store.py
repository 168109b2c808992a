"""The Store port over :class:`MemoryTables`: each method is one transaction of the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from omnidaemon.model.errors import Closed
from omnidaemon.model.run import Adoption, Ask, Deferred, DueWant, Grant, Group, Hold, Outcome, Outgoing, Record
from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon.ports.event_bus import PORT_VERSION, EventBus, Scope
from omnidaemon.ports.ledger import Ledger
from omnidaemon.ports.store import (
    AgentRow,
    Decision,
    Due,
    Fusion,
    MetricRow,
    Page,
    Put,
    Query,
    Retired,
    Store,
    StoreCapabilities,
    Versioned,
)
from omnidaemon_memory.tables import MemoryTables

__all__ = ["MemoryStore"]

_named: dict[str, MemoryTables] = {}


class MemoryStore:
    """A store in the memory of this process; nothing outlives it.

    Args:
        data: The rows to share; by default some of its own.
        clock: The store's clock.
    """

    port_version = PORT_VERSION
    capabilities = StoreCapabilities(
        name="memory",
        durability="process",
        scope="process",
        notes={"restartable": "it lives and dies with the process"},
    )

    def __init__(self, data: MemoryTables | None = None, *, clock: Clock | None = None) -> None:
        self.data = MemoryTables() if data is None else data
        self._clock: Clock = SystemClock() if clock is None else clock
        self._open = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened store; all of one process and namespace share their rows."""
        return cls(_named.setdefault(settings.get("namespace") or "omni", MemoryTables()))

    def __repr__(self) -> str:
        return f"MemoryStore({'open' if self._open else 'closed'})"

    @property
    def location(self) -> str:
        """Where it is: nowhere that could be named."""
        return "memory of this process"

    @property
    def scope(self) -> Scope:
        """From where it can be reached."""
        return "process"

    def twin(self) -> Self:
        """Return an unopened store over the same rows."""
        return type(self)(self.data, clock=self._clock)

    def fuse(self, bus: EventBus) -> Fusion | None:  # noqa: ARG002 - the reference shows the plain way
        """Return None: bus and store are asked one after the other."""
        return None

    async def open(self) -> None:
        """Begin."""
        self._open = True

    async def close(self) -> None:
        """End."""
        self._open = False

    async def ping(self) -> None:
        """Do nothing but check that it is open."""
        with self._ledger("ping"):
            pass

    async def now(self) -> float:
        """See the port."""
        with self._ledger("now") as ledger:
            return ledger.now

    async def enroll(self, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
        """See the port."""
        with self._ledger("enroll") as ledger:
            return ledger.enroll(topic, agent, data)

    async def agents(self) -> list[AgentRow]:
        """See the port."""
        with self._ledger("agents") as ledger:
            return ledger.tables.agents()

    async def retire(self, topic: str, agent: str, *, group: bool, dead_letters: bool) -> Retired:
        """See the port."""
        with self._ledger("retire") as ledger:
            return ledger.retire(topic, agent, group=group, dead_letters=dead_letters)

    async def claim(self, worker: str, asks: Sequence[Ask]) -> list[Grant]:
        """See the port."""
        with self._ledger("claim") as ledger:
            return ledger.claim(worker, asks)

    async def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """See the port."""
        with self._ledger("due") as ledger:
            return ledger.due(worker, call, want)

    async def renew(self, holds: Sequence[Hold]) -> list[bool]:
        """See the port."""
        with self._ledger("renew") as ledger:
            return ledger.renew(holds)

    async def adopt(self, items: Sequence[Adoption]) -> list[bool]:
        """See the port."""
        with self._ledger("adopt") as ledger:
            return ledger.adopt(items)

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See the port."""
        with self._ledger("settle") as ledger:
            return ledger.settle(outcomes)

    async def decide(self, decision: Decision) -> str:
        """See the port."""
        with self._ledger("decide") as ledger:
            return ledger.decide(decision)

    async def append(self, hold: Hold, chunks: Sequence[bytes], keep: float) -> bool:
        """See the port."""
        with self._ledger("append") as ledger:
            return ledger.append(hold, chunks, keep)

    async def follow(self, topic: str, agent: str, event_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See the port."""
        with self._ledger("follow") as ledger:
            return ledger.follow(topic, agent, event_id, after, limit)

    async def note(self, hold: Hold, key: str, value: bytes) -> bool:
        """See the port."""
        with self._ledger("note") as ledger:
            return ledger.note(hold, key, value)

    async def notes(self, group: Group, event_id: str) -> dict[str, bytes]:
        """See the port."""
        with self._ledger("notes") as ledger:
            return ledger.notes(group, event_id)

    async def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """See the port."""
        with self._ledger("defer") as ledger:
            return ledger.defer(rows)

    async def outbox(self, worker: str, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:  # noqa: ARG002 - leases are by time
        """See the port."""
        with self._ledger("outbox") as ledger:
            return ledger.outbox(limit, lease)

    async def sent(self, rows: Sequence[Outgoing]) -> None:
        """See the port."""
        with self._ledger("sent") as ledger:
            ledger.sent(rows)

    async def records(self, query: Query, cursor: str | None = None, limit: int = 100) -> Page[Record]:
        """See the port."""
        with self._ledger("records") as ledger:
            return ledger.records(query, cursor, limit)

    async def remove(self, query: Query) -> int:
        """See the port."""
        with self._ledger("remove") as ledger:
            return ledger.remove(query)

    async def count(self, group: Group) -> dict[str, int]:
        """See the port."""
        with self._ledger("count") as ledger:
            return ledger.count(group)

    async def forget(self, group: Group, before: float) -> int:
        """See the port."""
        with self._ledger("forget") as ledger:
            while ledger.sweep():
                pass
            return ledger.forget(group, before)

    async def metrics(
        self, topic: str | None = None, agent: str | None = None, since: float | None = None, until: float | None = None
    ) -> list[MetricRow]:
        """See the port."""
        with self._ledger("metrics") as ledger:
            return ledger.metrics(topic, agent, since, until)

    async def clear_metrics(self) -> int:
        """See the port."""
        with self._ledger("clear_metrics") as ledger:
            return ledger.tables.drop_counts()

    async def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """See the port."""
        with self._ledger("get") as ledger:
            return ledger.get(ns, keys)

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """See the port."""
        with self._ledger("put") as ledger:
            return ledger.put(ns, items)

    async def scan(self, ns: str, cursor: str | None = None, limit: int = 1000) -> Page[Versioned]:
        """See the port."""
        with self._ledger("scan") as ledger:
            return ledger.scan(ns, cursor, limit)

    @contextlib.contextmanager
    def _ledger(self, operation: str) -> Generator[Ledger]:
        """Yield the ledger of one transaction of its own."""
        if not self._open:
            raise Closed(f"MemoryStore.{operation}: the store is not open, call open() first")
        with self.data.transaction(self._clock.time()) as ledger:
            yield ledger


if TYPE_CHECKING:
    _: type[Store] = MemoryStore
