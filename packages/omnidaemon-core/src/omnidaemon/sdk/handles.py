"""Handles on published events and their tasks (``api.md`` §3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from omnidaemon.model import jsontext
from omnidaemon.model.durations import Duration, in_seconds
from omnidaemon.model.errors import (
    AmbiguousTask,
    ResultTimeout,
    TaskCanceled,
    TaskError,
    TaskFailed,
    TaskNotFound,
    TaskRejected,
)
from omnidaemon.model.names import split_task_id, task_id
from omnidaemon.model.run import Record, TaskState
from omnidaemon.runtime.record import read_data
from omnidaemon.sdk.own_lane import check_awaited, lane_of

if TYPE_CHECKING:
    from omnidaemon.sdk.base import Base

__all__ = ["EventHandle", "TaskHandle", "TaskOutcome"]

T = TypeVar("T")
_POLL_FIRST, _POLL_LAST = 0.01, 0.25


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one agent's work on an event ended.

    Attributes:
        agent: The agent's name.
        state: The final state.
        value: What it returned, for a completed task.
        error: The exception that :meth:`TaskHandle.result` raises otherwise.
    """

    agent: str
    state: TaskState
    value: Any = None
    error: TaskError | None = None


def outcome_of(record: Record) -> TaskOutcome:
    """Return the outcome of a final record."""
    name, agent = task_id(record.event_id, record.group.agent), record.group.agent
    if record.state is TaskState.COMPLETED:
        return TaskOutcome(agent, record.state, None if record.result is None else jsontext.load(record.result))
    if record.state is TaskState.CANCELED:
        return TaskOutcome(agent, record.state, error=TaskCanceled(f"task {name} was cancelled"))
    data = read_data(record.data)
    if record.state is TaskState.REJECTED:
        why = data.get("rejected", "skipped")
        return TaskOutcome(agent, record.state, error=TaskRejected(f"task {name} was not run: {why}"))
    last = data.get("last_error", {})
    history = data.get("history", [])
    failed = TaskFailed(
        f"task {name} failed: {last.get('type', 'unknown')}: {last.get('message', '')}",
        error_type=last.get("type", ""),
        message=last.get("message", ""),
        reason=record.dead or data.get("reason"),
        traceback=history[-1].get("traceback", "") if history else "",
        attempts=record.attempt,
    )
    return TaskOutcome(agent, record.state, error=failed)


class TaskHandle:
    """An event as one agent's work; without an agent, the only one there is."""

    def __init__(
        self,
        sdk: Base,
        event_id: str,
        agent: str | None = None,
        topic: str | None = None,
        lane: str | None = None,
    ) -> None:
        self._sdk, self.event_id, self.agent, self.topic, self._lane = sdk, event_id, agent, topic, lane
        self._typed: str | None = None

    @classmethod
    def of(cls, sdk: Base, task: str) -> TaskHandle:
        """Return the handle of what a user typed: ``<event id>:<agent>``, or an event id with colons."""
        handle = cls(sdk, *split_task_id(task))
        handle._typed = task
        return handle

    @property
    def id(self) -> str:
        """``<event id>:<agent>``, or the bare event id."""
        return self.event_id if self.agent is None else task_id(self.event_id, self.agent)

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    async def info(self) -> dict[str, Any] | None:
        """Return the task's record in any state, None while no worker has claimed it."""
        return await self._sdk.get_task(self.id, topic=self.topic)

    @overload
    async def result(self, timeout: Duration | None = None) -> Any: ...

    @overload
    async def result(self, timeout: Duration | None = None, *, as_: type[T]) -> T: ...

    async def result(self, timeout: Duration | None = None, *, as_: Any = None) -> Any:
        """Wait for the outcome and return the agent's value.

        Args:
            timeout: Seconds to wait, or a ``timedelta``; None waits for ever.
            as_: A model, dataclass or other type that the value is validated as.

        Raises:
            TaskError: Awaited by a run that the task itself has to wait for (R5).
            TaskFailed: The agent gave up.
            TaskCanceled: It was cancelled.
            TaskRejected: It expired or was skipped.
            ResultTimeout: No outcome in time; the task goes on.
            AmbiguousTask: Several agents work on the event.
        """
        record = await self._final(None if timeout is None else in_seconds(timeout))
        outcome = outcome_of(record)
        if outcome.error is not None:
            raise outcome.error
        if as_ is None:
            return outcome.value
        from pydantic import TypeAdapter

        return TypeAdapter(as_).validate_python(outcome.value)

    async def _final(self, timeout: float | None) -> Record:
        found: Record | None = None
        async for found in self._records(timeout):
            if found is not None and found.state.final:
                return found
        if found is not None:
            raise ResultTimeout(f"task {self.id} is {found.state.value} after {timeout:g} s")
        raise ResultTimeout(
            f"no agent has taken event {self.event_id} within {timeout:g} s; is a worker running that serves its topic?"
        )

    async def _records(self, timeout: float | None) -> AsyncIterator[Record | None]:
        """Yield the record as it is, again and again, until ``timeout`` seconds have passed."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        pause = _POLL_FIRST
        while True:
            record = await self._find()
            self._check(record)
            yield record
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(_POLL_LAST, pause * 1.5)

    def _check(self, record: Record | None) -> None:
        if record is None:
            check_awaited(self.event_id, self.topic, self.agent, self._lane)
        elif not record.state.final:
            check_awaited(self.event_id, record.group.topic, record.group.agent, lane_of(record))

    async def _find(self) -> Record | None:
        records = await self._sdk.find_records(self.event_id, self.agent, self.topic)
        if not records and self._typed not in (None, self.event_id):
            records = await self._sdk.find_records(str(self._typed), None, self.topic)
            if records:
                self.event_id, self.agent = str(self._typed), None
        if self.agent is None:
            known = {record.group.agent for record in records}
            if self.topic is not None:
                known |= await self._sdk.agents_on(self.topic)
            if len(known) > 1:
                raise AmbiguousTask(
                    f"several agents work on event {self.event_id}: {', '.join(sorted(known))}; name one with agent="
                )
        return records[0] if records else None

    async def progress(self, after: int = 0, timeout: Duration | None = None) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the progress stream until the task ends (R4).

        Each entry has ``n``, its number from 1: pass the last one seen as ``after`` to resume. An
        entry of a new attempt has another ``attempt``.
        """
        async for record in self._records(None if timeout is None else in_seconds(timeout)):
            if record is None:
                continue
            group = record.group
            store = (await self._sdk.connections.get()).store
            while chunks := await store.follow(group.topic, group.agent, self.event_id, after, 100):
                for number, chunk in chunks:
                    after = number
                    yield {"n": number, **jsontext.load(chunk)}
            if record.state.final:
                return

    async def cancel(self) -> bool:
        """Cancel it wherever it is; False when it had ended before (C2)."""
        return await self._sdk.cancel(self.id, topic=self.topic)

    async def answer(self, question: str, value: Any) -> None:
        """Answer the question that the task waits for (R6).

        Raises:
            TaskNotFound: Nobody has met the task.
            TaskError: It does not wait for that question (any more).
        """
        record = await self._find()
        if record is None:
            raise TaskNotFound(f"no agent has a record of task {self.id}")
        await self._sdk.answer(record, question, value)


class EventHandle:
    """A published event."""

    def __init__(self, sdk: Base, event_id: str, topic: str, lane: str | None = None) -> None:
        self._sdk, self.id, self.topic, self._lane = sdk, event_id, topic, lane

    def __repr__(self) -> str:
        return f"EventHandle(id={self.id!r}, topic={self.topic!r})"

    def task(self, agent: str | None = None) -> TaskHandle:
        """Return the handle of one agent's work on this event."""
        return TaskHandle(self._sdk, self.id, agent, self.topic, self._lane)

    async def result(self, agent: str | None = None, timeout: Duration | None = None, as_: Any = None) -> Any:
        """Wait for an agent's value; see :meth:`TaskHandle.result`."""
        return await self.task(agent).result(timeout, as_=as_)

    async def results(self, timeout: Duration | None = None) -> dict[str, TaskOutcome]:
        """Wait until every agent known on the topic has its outcome.

        Raises:
            ResultTimeout: Some have none in time; names them.
        """
        loop = asyncio.get_running_loop()
        seconds = None if timeout is None else in_seconds(timeout)
        deadline = None if seconds is None else loop.time() + seconds
        pause = _POLL_FIRST
        while True:
            known = await self._sdk.agents_on(self.topic)
            records = await self._sdk.find_records(self.id, None, self.topic)
            ended = {record.group.agent: outcome_of(record) for record in records if record.state.final}
            missing = known - ended.keys()
            if known and not missing:
                return ended
            for name in missing:
                check_awaited(self.id, self.topic, name, self._lane)
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                who = ", ".join(sorted(missing)) or "no agent is known on the topic"
                raise ResultTimeout(f"event {self.id} has no outcome after {seconds:g} s from: {who}")
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(_POLL_LAST, pause * 1.5)
