"""The Store port over a database file: each method is one job, and jobs share transactions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

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
from omnidaemon_sqlite._file import OpenFile
from omnidaemon_sqlite._fusion import SQLiteFusion, acknowledge
from omnidaemon_sqlite._runs import CHUNK
from omnidaemon_sqlite._session import Session
from omnidaemon_sqlite._settings import DEFAULT_PATH, absolute, path_of
from omnidaemon_sqlite._tables import SQLiteTables
from omnidaemon_sqlite.bus import SQLiteEventBus

__all__ = ["SQLiteStore"]

T = TypeVar("T")


class SQLiteStore:
    """A store in one SQLite file, for all processes of one machine.

    Args:
        path: The file; it is made with its folder.
        namespace: What tells deployments in one file apart.
        clock: The store's clock.
        timeout: Seconds to wait for other processes to let go of the file when writing.
        connect_timeout: Seconds to wait for them while opening.

    Raises:
        ConfigurationError: ``path`` is no name of a file.
    """

    port_version = PORT_VERSION
    capabilities = StoreCapabilities(
        name="sqlite",
        durability="disk",
        scope="machine",
        notes={"restartable": "there is no server, only a file"},
    )

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_PATH,
        *,
        namespace: str = "omni",
        clock: Clock | None = None,
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.path = absolute(path)
        self.namespace = namespace
        self._clock: Clock = SystemClock() if clock is None else clock
        self._timeouts = (timeout, connect_timeout)
        self._file: OpenFile | None = None
        self._space = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened store; the file is ``url``, else SQLITE_PATH, else the default."""
        return cls(
            path_of(settings),
            namespace=settings.get("namespace") or "omni",
            connect_timeout=settings.get("connect_timeout") or 5.0,
        )

    def __repr__(self) -> str:
        return f"SQLiteStore({self.path!r}, namespace={self.namespace!r})"

    @property
    def location(self) -> str:
        """The file's absolute path."""
        return self.path

    @property
    def scope(self) -> Scope:
        """From where it can be reached."""
        return "machine"

    def twin(self) -> Self:
        """Return an unopened store of the same file and settings."""
        timeout, connect_timeout = self._timeouts
        return type(self)(
            self.path, namespace=self.namespace, clock=self._clock, timeout=timeout, connect_timeout=connect_timeout
        )

    def fuse(self, bus: EventBus) -> Fusion | None:
        """See the port: fused if the bus has the same file open in the same loop, and the same namespace."""
        if (
            self._file is None
            or not isinstance(bus, SQLiteEventBus)
            or bus.opened_file is not self._file
            or bus.namespace != self.namespace
        ):
            return None
        return SQLiteFusion(bus, self._file, self.tables)

    async def open(self) -> None:
        """Open the file, and make or migrate it.

        Raises:
            ConfigurationError: It cannot serve as a database.
            BackendUnavailable: Another process does not let go of it.
        """
        if self._file is not None:
            return
        file = await OpenFile.acquire(self.path, *self._timeouts)
        try:
            self._space = await file.write(lambda session: session.space(self.namespace))
        except BaseException:
            await file.release()
            raise
        self._file = file

    async def close(self) -> None:
        """See the port."""
        file, self._file = self._file, None
        if file is not None:
            await file.release()

    async def ping(self) -> None:
        """See the port."""
        await self._opened("ping").read(lambda session: session.connection.execute("SELECT 1 FROM meta").fetchone())

    async def now(self) -> float:
        """See the port."""
        self._opened("now")
        return self._clock.time()

    async def enroll(self, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
        """See the port."""
        return await self._write("enroll", lambda ledger: ledger.enroll(topic, agent, data))

    async def agents(self) -> list[AgentRow]:
        """See the port."""
        return await self._read("agents", lambda ledger: ledger.tables.agents())

    async def retire(self, topic: str, agent: str, *, group: bool, dead_letters: bool) -> Retired:
        """See the port."""
        return await self._write(
            "retire", lambda ledger: ledger.retire(topic, agent, group=group, dead_letters=dead_letters)
        )

    async def claim(self, worker: str, asks: Sequence[Ask]) -> list[Grant]:
        """See the port."""
        return await self._write("claim", lambda ledger: ledger.claim(worker, asks))

    async def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """See the port."""
        return await self._write("due", lambda ledger: ledger.due(worker, call, want))

    async def renew(self, holds: Sequence[Hold]) -> list[bool]:
        """See the port."""
        return await self._write("renew", lambda ledger: ledger.renew(holds))

    async def adopt(self, items: Sequence[Adoption]) -> list[bool]:
        """See the port."""
        return await self._write("adopt", lambda ledger: ledger.adopt(items))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See the port. Deliveries of this file are acknowledged, or given back, in the same step."""

        def settle(session: Session) -> list[bool]:
            accepted = Ledger(self.tables(session)).settle(outcomes)
            done = [outcome for outcome, taken in zip(outcomes, accepted, strict=True) if taken]
            acknowledge(session, self.namespace, done)
            return accepted

        return await self._opened("settle").write(settle)

    async def decide(self, decision: Decision) -> str:
        """See the port."""
        return await self._write("decide", lambda ledger: ledger.decide(decision))

    async def append(self, hold: Hold, chunks: Sequence[bytes], keep: float) -> bool:
        """See the port."""
        return await self._write("append", lambda ledger: ledger.append(hold, chunks, keep))

    async def follow(self, topic: str, agent: str, event_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See the port."""
        return await self._read("follow", lambda ledger: ledger.follow(topic, agent, event_id, after, limit))

    async def note(self, hold: Hold, key: str, value: bytes) -> bool:
        """See the port."""
        return await self._write("note", lambda ledger: ledger.note(hold, key, value))

    async def notes(self, group: Group, event_id: str) -> dict[str, bytes]:
        """See the port."""
        return await self._read("notes", lambda ledger: ledger.notes(group, event_id))

    async def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """See the port."""
        return await self._write("defer", lambda ledger: ledger.defer(rows))

    async def outbox(self, worker: str, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:  # noqa: ARG002 - leases are by time
        """See the port."""
        return await self._write("outbox", lambda ledger: ledger.outbox(limit, lease))

    async def sent(self, rows: Sequence[Outgoing]) -> None:
        """See the port."""
        await self._write("sent", lambda ledger: ledger.sent(rows))

    async def records(self, query: Query, cursor: str | None = None, limit: int = 100) -> Page[Record]:
        """See the port."""
        return await self._read("records", lambda ledger: ledger.records(query, cursor, limit))

    async def remove(self, query: Query) -> int:
        """See the port."""
        return await self._write("remove", lambda ledger: ledger.remove(query))

    async def count(self, group: Group) -> dict[str, int]:
        """See the port."""
        return await self._read("count", lambda ledger: ledger.count(group))

    async def forget(self, group: Group, before: float) -> int:
        """See the port."""
        while await self._write("forget", lambda ledger: ledger.sweep()):
            pass
        dropped, step = 0, CHUNK
        while step == CHUNK:
            step = await self._write("forget", lambda ledger: ledger.forget(group, before))
            dropped += step
        return dropped

    async def metrics(
        self, topic: str | None = None, agent: str | None = None, since: float | None = None, until: float | None = None
    ) -> list[MetricRow]:
        """See the port."""
        return await self._read("metrics", lambda ledger: ledger.metrics(topic, agent, since, until))

    async def clear_metrics(self) -> int:
        """See the port."""
        return await self._write("clear_metrics", lambda ledger: ledger.tables.drop_counts())

    async def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """See the port."""
        return await self._read("get", lambda ledger: ledger.get(ns, keys))

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """See the port."""
        return await self._write("put", lambda ledger: ledger.put(ns, items))

    async def scan(self, ns: str, cursor: str | None = None, limit: int = 1000) -> Page[Versioned]:
        """See the port."""
        return await self._read("scan", lambda ledger: ledger.scan(ns, cursor, limit))

    def tables(self, session: Session) -> SQLiteTables:
        """Return this store's rows in an open transaction."""
        return SQLiteTables(session, self._space, self._clock.time())

    async def _write(self, operation: str, work: Callable[[Ledger], T]) -> T:
        return await self._opened(operation).write(lambda session: work(Ledger(self.tables(session))))

    async def _read(self, operation: str, work: Callable[[Ledger], T]) -> T:
        return await self._opened(operation).read(lambda session: work(Ledger(self.tables(session))))

    def _opened(self, operation: str) -> OpenFile:
        if self._file is None:
            raise Closed(f"SQLiteStore.{operation}: the store is not open, call open() first")
        return self._file


if TYPE_CHECKING:
    _: type[Store] = SQLiteStore
