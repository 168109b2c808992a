"""Jobs of the database's thread, and how many of them share one transaction and one fsync."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omnidaemon_sqlite._database import Database
from omnidaemon_sqlite._errors import translate
from omnidaemon_sqlite._session import Session

__all__ = ["Job", "Outcome", "run_jobs"]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """Work for the thread.

    Attributes:
        run: What to do.
        future: Who waits for it.
        write: Whether it writes.
        look: Tried before ``run``; when it finds an answer without writing, that is the result.
        regret: Undoes what was done, if the caller was cancelled and will never see the result.
    """

    run: Callable[[Session], T]
    future: asyncio.Future[T]
    write: bool = True
    look: Callable[[Session], T | None] | None = None
    regret: Callable[[Session, T], object] | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a job."""

    job: Job[Any]
    result: Any = None
    error: Exception | None = None


def run_jobs(database: Database, session: Session, jobs: Sequence[Job[Any]]) -> list[Outcome]:
    """Run jobs in order and return their outcomes, after the commit.

    If none has to write, no lock is taken. Whatever raises is undone alone; if the transaction itself
    fails, none of its jobs has happened.
    """
    outcomes: list[Outcome] = []
    if not any(job.write and job.look is None for job in jobs):
        outcomes = _look(database, session, jobs)
    told = {id(outcome.job) for outcome in outcomes}
    rest = [job for job in jobs if id(job) not in told]
    if rest:
        try:
            outcomes += _write(database, session, rest)
        except Exception as error:  # noqa: BLE001 - told to everybody who waits
            session.woken.clear()
            outcomes += [Outcome(job, error=translate(error, database.path)) for job in rest]
    return outcomes


def _look(database: Database, session: Session, jobs: Sequence[Job[Any]]) -> list[Outcome]:
    """Run what only reads, on one snapshot; return the outcomes of what is done with that."""
    outcomes: list[Outcome] = []
    session.begin()
    try:
        database.connection.execute("BEGIN")
        for job in jobs:
            try:
                result = job.run(session) if job.look is None else job.look(session)
            except Exception as error:  # noqa: BLE001 - told to who waits
                outcomes.append(Outcome(job, error=translate(error, database.path)))
            else:
                if job.look is None or result is not None:
                    outcomes.append(Outcome(job, result))
        database.connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - told to everybody who waits
        _roll_back(database)
        return [Outcome(job, error=translate(error, database.path)) for job in jobs]
    return outcomes


def _write(database: Database, session: Session, jobs: Sequence[Job[Any]]) -> list[Outcome]:
    with database.gate.held(database.timeout):
        database.check_identity()
        session.begin()
        try:
            database.connection.execute("BEGIN IMMEDIATE")
            outcomes = [_write_one(database, session, job, alone=len(jobs) == 1) for job in jobs]
            session.flush()
            _commit(database)
        except BaseException:
            _roll_back(database)
            raise
    return outcomes


def _commit(database: Database) -> None:
    try:
        database.connection.execute("COMMIT")
    except Exception as error:
        raise translate(error, database.path, committing=True) from error


def _write_one(database: Database, session: Session, job: Job[Any], *, alone: bool) -> Outcome:
    execute = database.connection.execute
    if not alone:
        execute("SAVEPOINT job")
    try:
        outcome = Outcome(job, job.run(session))
    except Exception as error:
        if not database.connection.in_transaction:
            raise  # SQLite has given up the whole transaction, as it does when the disk is full
        if alone:
            execute("ROLLBACK")
            execute("BEGIN IMMEDIATE")
        else:
            execute("ROLLBACK TO job")
        session.undo()
        outcome = Outcome(job, error=translate(error, database.path))
    else:
        session.keep()
    if not alone:
        execute("RELEASE job")
    return outcome


def _roll_back(database: Database) -> None:
    with contextlib.suppress(Exception):
        if database.connection.in_transaction:
            database.connection.execute("ROLLBACK")
