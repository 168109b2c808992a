"""The EventBus port over a database file."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from omnidaemon.model.errors import BackendUnavailable, Closed, PublishUncertain
from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon.ports.event_bus import PORT_VERSION, BusCapabilities, EventBus, Scope, TopicInfo
from omnidaemon_sqlite._errors import CommitUnknown
from omnidaemon_sqlite._events import EventTables, Taken
from omnidaemon_sqlite._file import OpenFile
from omnidaemon_sqlite._session import Session
from omnidaemon_sqlite._settings import DEFAULT_PATH, absolute, path_of
from omnidaemon_sqlite._topics import CHUNK, TopicTables

__all__ = ["SQLiteEventBus"]

_PAGE = 200


class SQLiteEventBus:
    """An event bus in one SQLite file, for all processes of one machine.

    Args:
        path: The file; it is made with its folder.
        namespace: What tells deployments in one file apart.
        clock: Source of all times.
        lease: Seconds after which a delivery that nobody extends is delivered again.
        timeout: Seconds to wait for other processes to let go of the file when writing.
        connect_timeout: Seconds to wait for them while opening.
        max_event_bytes: What one event may hold.
        topic_max_bytes: Publishing raises ``BusFull`` when a topic holds so much that some group
            has not finished; None for no limit.

    Raises:
        ConfigurationError: ``path`` is no name of a file.
    """

    port_version = PORT_VERSION
    capabilities = BusCapabilities(
        name="sqlite",
        durability="disk",
        scope="machine",
        ordered_by_key=True,
        history=True,
        history_by_time=True,
        trim=True,
        late_groups=True,
        exact_lag=True,
        redelivery="idle",
        notes={"restartable": "there is no server, only a file"},
    )

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_PATH,
        *,
        namespace: str = "omni",
        clock: Clock | None = None,
        lease: float = 15.0,
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
        max_event_bytes: int = 1 << 20,
        topic_max_bytes: int | None = None,
    ) -> None:
        self.path = absolute(path)
        self.namespace = namespace
        self.capabilities = replace(type(self).capabilities, max_event_bytes=max_event_bytes)
        self._clock: Clock = SystemClock() if clock is None else clock
        self.lease = lease
        self._timeouts = (timeout, connect_timeout)
        self._topic_max_bytes = topic_max_bytes
        self._file: OpenFile | None = None
        self._space = 0
        self.reader = ""
        self._waiting: set[asyncio.Event] = set()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened bus; the file is ``url``, else SQLITE_PATH, else the default."""
        return cls(
            path_of(settings),
            namespace=settings.get("namespace") or "omni",
            lease=settings.get("lease") or 15.0,
            connect_timeout=settings.get("connect_timeout") or 5.0,
            topic_max_bytes=settings.get("topic_max_bytes"),
        )

    def __repr__(self) -> str:
        return f"SQLiteEventBus({self.path!r}, namespace={self.namespace!r})"

    @property
    def location(self) -> str:
        """The file's absolute path."""
        return self.path

    @property
    def scope(self) -> Scope:
        """From where it can be reached."""
        return "machine"

    @property
    def opened_file(self) -> OpenFile | None:
        """The opened file, for a store that wants to share its transactions."""
        return self._file

    def twin(self, *, lease: float | None = None) -> Self:
        """Return an unopened bus of the same file and settings."""
        return type(self)(
            self.path,
            namespace=self.namespace,
            clock=self._clock,
            lease=self.lease if lease is None else lease,
            timeout=self._timeouts[0],
            connect_timeout=self._timeouts[1],
            max_event_bytes=self.capabilities.max_event_bytes,
            topic_max_bytes=self._topic_max_bytes,
        )

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
        self.reader = uuid.uuid4().hex[:16]
        self._file = file

    async def close(self) -> None:
        """See the port; reads that still wait return nothing."""
        file, self._file = self._file, None
        for event in self._waiting:
            event.set()
        if file is not None:
            await file.release()

    async def ping(self) -> None:
        """See the port."""
        await self._opened("ping").read(lambda session: session.connection.execute("SELECT 1 FROM meta").fetchone())

    async def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """See the port.

        Raises:
            ConfigurationError: A start is a position that this bus never gave.
        """
        await self._opened("ensure").write(lambda session: self.events(session).ensure(topic, groups))

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:  # noqa: ARG002 - a local disk
        """See the port."""
        file, limit = self._opened("publish"), self.capabilities.max_event_bytes
        try:
            return await file.write(
                lambda session: self.events(session).publish(batch, limit, self._topic_max_bytes),
            )
        except CommitUnknown as error:
            return [PublishUncertain(str(error)) for _ in batch]
        except BackendUnavailable as error:
            return [BackendUnavailable(str(error)) for _ in batch]

    async def read(self, want: Mapping[Group, int], wait: float) -> list[Delivery]:
        """See the port."""
        file, reader = self._opened("read"), self.reader

        async def attempt() -> Taken:
            return await file.write(
                lambda session: self.events(session).take(want, reader, self.lease),
                look=lambda session: self.events(session).look(want),
                regret=lambda session, taken: self.events(session).give_back(taken.deliveries, reader),
            )

        taken = await self.repeat(attempt, want, wait)
        return [] if taken is None else taken.deliveries

    async def ack(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        await self._opened("ack").write(lambda session: self.events(session).ack(batch))

    async def extend(self, batch: Sequence[Delivery]) -> list[bool | None]:
        """See the port."""
        file, reader = self._opened("extend"), self.reader
        return await file.write(
            lambda session: self.events(session).extend(batch, reader, self._clock.time() + self.lease)
        )

    async def give_back(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        file, reader = self._opened("give_back"), self.reader
        await file.write(lambda session: self.events(session).give_back(batch, reader))

    async def history(self, topic: str, start: Start, end: Start) -> AsyncIterator[tuple[str, bytes]]:
        """See the port. Both ends are inclusive.

        Raises:
            ConfigurationError: An end is a position that this bus never gave.
        """
        number, cursor, last = await self._opened("history").read(
            lambda session: self._topics(session).bounds(topic, start, end)
        )
        while True:
            after = cursor
            page = await self._opened("history").read(
                lambda session: self._topics(session).page(number, after, last, _PAGE)  # noqa: B023 - awaited here
            )
            for position, body in page:
                yield str(position), body
            if len(page) < _PAGE:
                return
            cursor = page[-1][0]

    async def trim(self, topic: str, before: float) -> int:
        """See the port."""
        removed, step = 0, CHUNK
        while step == CHUNK:
            step = await self._opened("trim").write(lambda session: self._topics(session).trim(topic, before))
            removed += step
        return removed

    async def info(self, topic: str) -> TopicInfo:
        """See the port."""
        return await self._opened("info").read(lambda session: self._topics(session).info(topic))

    async def topics(self) -> list[str]:
        """See the port."""
        return await self._opened("topics").read(lambda session: self._topics(session).names())

    async def delete(self, what: Group | str) -> int:
        """See the port. No event goes with a group; a large topic goes in several steps."""
        if not isinstance(what, str):
            await self._opened("delete").write(lambda session: self._topics(session).delete_group(what))
            return 0
        removed, gone = 0, False
        while not gone:
            step, gone = await self._opened("delete").write(lambda session: self._topics(session).delete_topic(what))
            removed += step
        return removed

    def events(self, session: Session) -> EventTables:
        """Return this bus's events in an open transaction."""
        return EventTables(session, self._space, self.namespace, self._clock.time())

    def _topics(self, session: Session) -> TopicTables:
        return TopicTables(session, self._space)

    async def repeat(self, attempt: Callable[[], Awaitable[A]], want: Mapping[Group, object], wait: float) -> A | None:
        """Repeat ``attempt`` until it hands over something, ``wait`` has passed or the bus is closed.

        Between two attempts it waits for something new on the topics, or for the next redelivery.
        """
        file, deadline = self._opened("read"), self._clock.monotonic() + wait
        with file.listen(frozenset((self.namespace, group.topic) for group in want)) as event:
            self._waiting.add(event)
            try:
                while self._file is file:
                    event.clear()
                    result = await attempt()
                    left = deadline - self._clock.monotonic()
                    if result.deliveries or left <= 0:
                        return result
                    due = left if result.next_at is None else result.next_at - self._clock.time()
                    await self._clock.wait(event, min(left, max(due, 0.001)))
            finally:
                self._waiting.discard(event)
        return None

    def _opened(self, operation: str) -> OpenFile:
        if self._file is None:
            raise Closed(f"SQLiteEventBus.{operation}: the bus is not open, call open() first")
        return self._file


class _Attempt(Protocol):
    @property
    def deliveries(self) -> Sequence[object]: ...

    @property
    def next_at(self) -> float | None: ...


A = TypeVar("A", bound=_Attempt)

if TYPE_CHECKING:
    _: type[EventBus] = SQLiteEventBus
