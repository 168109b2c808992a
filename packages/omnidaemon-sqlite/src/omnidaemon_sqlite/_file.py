"""A database file as one event loop has it open: one connection, one thread, shared transactions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, TypeVar

from omnidaemon.model.errors import Closed
from omnidaemon_sqlite._database import Database
from omnidaemon_sqlite._errors import translate
from omnidaemon_sqlite._jobs import Job, Outcome, run_jobs
from omnidaemon_sqlite._session import Session

__all__ = ["OpenFile", "Topics"]

T = TypeVar("T")
Topics = frozenset[tuple[str, str]]

_MOST_JOBS = 256  # in one transaction
_FIRST_POLL, _LONGEST_POLL = 0.005, 0.1
_IDLE = 5.0  # seconds between looks whether the loop is still there


class OpenFile:
    """Runs jobs in the order they come; those that wait while a transaction runs share the next one.

    A job's result is told only after the commit. A bus and a store of one loop that open the same
    file get the same instance, and with it the same transactions.
    """

    _opened: ClassVar[dict[tuple[str, asyncio.AbstractEventLoop], OpenFile]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, timeout: float, connect_timeout: float) -> None:
        self.path = path
        self._loop = loop
        self._timeouts = (timeout, connect_timeout)
        self._users = 0
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._listeners: dict[asyncio.Event, Topics] = {}
        self._ready: asyncio.Future[Exception | None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._live, name=f"omnidaemon-sqlite {path}", daemon=True)

    @classmethod
    async def acquire(cls, path: str, timeout: float, connect_timeout: float) -> OpenFile:
        """Return the file as the running loop has it open; ``release`` it in the end.

        Raises:
            ConfigurationError: It cannot serve as a database.
            BackendUnavailable: Another process does not let go of it.
        """
        loop = asyncio.get_running_loop()
        with cls._guard:
            opened = cls._opened.get((path, loop))
            if opened is None:
                opened = cls._opened[path, loop] = cls(path, loop, timeout, connect_timeout)
                opened._thread.start()
            opened._users += 1
        try:
            failure = await asyncio.shield(opened._ready)
            if failure is not None:
                raise failure
        except BaseException:
            await opened.release()
            raise
        return opened

    async def release(self) -> None:
        """Let go; the last user's release ends the thread and closes the connection."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            self._forget()
        self._jobs.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _forget(self) -> None:
        if self._opened.get((self.path, self._loop)) is self:
            del self._opened[self.path, self._loop]

    async def read(self, run: Callable[[Session], T]) -> T:
        """Return what ``run`` returns; it must not write."""
        return await self._submit(Job(run, self._loop.create_future(), write=False))

    async def write(
        self,
        run: Callable[[Session], T],
        *,
        look: Callable[[Session], T | None] | None = None,
        regret: Callable[[Session, T], object] | None = None,
    ) -> T:
        """Return what ``run`` returns, once it is committed; see :class:`Job` for the others."""
        return await self._submit(Job(run, self._loop.create_future(), look=look, regret=regret))

    async def _submit(self, job: Job[T]) -> T:
        if os.getpid() != self._process:
            raise Closed(f"{self.path} was opened by the process that this one was forked from: open it again")
        self._jobs.put(job)
        return await job.future

    @contextlib.contextmanager
    def listen(self, topics: Topics) -> Generator[asyncio.Event]:
        """Yield an event that is set whenever these (namespace, topic) may have something new.

        Other processes are noticed by polling, for as long as somebody listens; it begins after the
        next job, which a listener has anyway: it looks whether there is something already.
        """
        event = asyncio.Event()
        self._listeners[event] = topics
        try:
            yield event
        finally:
            del self._listeners[event]

    def _wake(self, topics: Topics | None) -> None:
        for event, listened in self._listeners.items():
            if topics is None or topics & listened:
                event.set()

    def _deliver(self, outcomes: Sequence[Outcome], topics: Topics) -> None:
        for outcome in outcomes:
            future, regret = outcome.job.future, outcome.job.regret
            if not future.done():
                if outcome.error is None:
                    future.set_result(outcome.result)
                else:
                    future.set_exception(outcome.error)
            elif regret is not None and outcome.error is None:
                self._jobs.put(Job(_bind(regret, outcome.result), self._loop.create_future()))
        self._wake(topics)

    def announce(self, topics: Topics) -> None:
        """Wake who listens to these topics; from any thread."""
        self._tell(self._wake, topics)

    def _tell(self, what: Callable[..., object], *args: object) -> None:
        """Call something in the loop, from the thread, if the loop is still there."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *args)

    def _live(self) -> None:
        """Be the thread."""
        try:
            database = Database(self.path, *self._timeouts)
        except Exception as error:  # noqa: BLE001 - told to whoever opens
            self._tell(_resolve, self._ready, translate(error, self.path, opening=True))
        else:
            self._tell(_resolve, self._ready, None)
            try:
                self._serve(database)
            finally:
                database.close()
        with self._guard:
            self._forget()
        self._tell(_resolve, self._ended, None)

    def _serve(self, database: Database) -> None:
        session = Session(database.connection, self.path)
        pause, polled = _FIRST_POLL, time.monotonic()
        version: int | None = None
        while True:
            batch = self._next_jobs(max(0.0, polled + pause - time.monotonic()) if self._listeners else _IDLE)
            jobs = [job for job in batch if job is not None and not job.future.cancelled()]
            if jobs:
                outcomes = run_jobs(database, session, jobs)
                topics = frozenset(session.woken)
                self._tell(self._deliver, outcomes, topics)
                if topics:
                    self._wake_others(topics)
            if (batch and batch[-1] is None) or self._loop.is_closed():
                return
            if self._listeners and time.monotonic() >= polled + pause:
                polled = time.monotonic()
                seen = _data_version(database, version)
                pause = _FIRST_POLL if seen != version or jobs else min(pause * 2, _LONGEST_POLL)
                if seen != version:
                    version = seen
                    self._tell(self._wake, None)

    def _next_jobs(self, timeout: float) -> list[Job[Any] | None]:
        """Return all jobs that wait, up to a None that means the end; none after ``timeout``."""
        batch: list[Job[Any] | None] = []
        try:
            batch.append(self._jobs.get(timeout=timeout))
            while len(batch) < _MOST_JOBS and batch[-1] is not None:
                batch.append(self._jobs.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _wake_others(self, topics: Topics) -> None:
        """Wake readers of other loops of this process, which would wait for their next poll."""
        with self._guard:
            others = [other for (path, _), other in self._opened.items() if path == self.path and other is not self]
        for other in others:
            other.announce(topics)


def _data_version(database: Database, last: int | None) -> int | None:
    """Return a number that changes with every write of another process; ``last`` if it cannot be read."""
    try:
        return int(database.connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error:
        return last  # whoever reads next is told why


def _bind(regret: Callable[[Session, T], object], result: T) -> Callable[[Session], object]:
    return lambda session: regret(session, result)


def _resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
