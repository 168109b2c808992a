"""The Context of a run: progress, follow-ups, steps and questions, all fenced by its claim."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from omnidaemon.model import jsontext
from omnidaemon.model.durations import Duration, in_seconds
from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.model.errors import InvalidContent, InvalidEvent, LeaseLost, PayloadTooLarge, UnsupportedCapability
from omnidaemon.model.names import task_id
from omnidaemon.ports.store import Store
from omnidaemon.runtime.followups import follow_up
from omnidaemon.runtime.handover import Handover
from omnidaemon.runtime.job import Flag, Job
from omnidaemon.runtime.outcome import postponed
from omnidaemon.runtime.signals import AskSignal
from omnidaemon.runtime.threads import in_thread
from omnidaemon.settings import Settings

__all__ = ["RunContext", "Surroundings"]

_logger = logging.getLogger("omnidaemon.agent")
MAX_KEY = 200
T = TypeVar("T")
Insist = Callable[[str, Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all runs of a worker share."""

    store: Store
    insist: Insist
    handover: Handover
    settings: Settings
    state: Any = None
    ordered: bool = True

    async def ask(self, call: Callable[[Store], Awaitable[T]]) -> T:
        """Await a call to the store; while it cannot be reached the run waits, and fails for no such reason (D4)."""
        answer: T = await self.handover.call_io(self.insist("store", lambda: call(self.store)))
        return answer


class RunContext:
    """See :class:`omnidaemon.ports.context.Context`; made for each run, so it holds little and makes no more."""

    __slots__ = ("_around", "_job", "_notes", "deadline", "event", "steps", "used")

    def __init__(self, job: Job, event: EventEnvelope, around: Surroundings) -> None:
        self._job, self._around, self.event = job, around, event
        timeout = job.subscription.config.config.timeout
        self.deadline = None if timeout is None else time.time() + timeout
        self.steps: dict[str, float] | None = None
        self.used: dict[str, float] | None = None
        self._notes: dict[str, bytes] | None = None

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self._job.subscription.config.name

    @property
    def attempt(self) -> int:
        """Number of this try, from 1."""
        return self._job.grant.attempt

    @property
    def starts(self) -> int:
        """How often this run was started, lost starts included."""
        return self._job.grant.lost + self._job.grant.attempt + postponed(self._job)

    @property
    def cancelled(self) -> Flag:
        """Set when the run's outcome is no longer wanted."""
        return self._job.cancelled

    @property
    def state(self) -> Any:
        """What the process gave its runs to share."""
        return self._around.state

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry agent, event and attempt."""
        extra = {"agent": self.agent, "event_id": self.event.id, "attempt": self.attempt}
        return logging.LoggerAdapter(_logger, extra)

    async def progress(self, message: str | None = None, percent: float | None = None, data: Any = None) -> None:
        """Add an entry to the progress stream."""
        fields = {"message": message, "percent": percent, "data": data}
        await self._append({name: value for name, value in fields.items() if value is not None})

    async def emit(self, chunk: Any) -> None:
        """Add partial output to the progress stream."""
        await self._append({"chunk": chunk})

    async def _append(self, fields: dict[str, Any]) -> None:
        entry = {"attempt": self.attempt, "generation": self._job.grant.generation, "at": round(time.time(), 3)}
        entry.update(fields)
        chunk = jsontext.dump(entry, "progress")
        self._check_size(chunk, "a progress entry")
        hold, keep = self._job.hold, self._around.settings.result_ttl
        self._owned(await self._around.ask(lambda store: store.append(hold, [chunk], keep)))

    async def publish(self, topic: str, content: Any, **fields: Any) -> str:
        """Plan a follow-up; see :func:`omnidaemon.runtime.followups.follow_up`."""
        job, around = self._job, self._around
        if job.outcome is not None:
            raise LeaseLost(
                f"the attempt of task {task_id(self.event.id, self.agent)} has ended: nothing can follow it"
            )
        if not around.ordered and fields.get("key") is not None:
            raise UnsupportedCapability(f"key={fields['key']!r} needs a bus that orders by key, and this one does not")
        event, row = follow_up(job, self.event, topic, content, fields, around.settings)
        if not around.ordered:
            row.event.key = None  # the store alone keeps a session's events apart
        job.followups.append(row)
        return event.id

    def planned(self, event_id: str) -> bool:
        """Return whether the run is going to publish that event when it has ended."""
        return any(row.event.id == event_id for row in self._job.followups)

    async def step(self, key: str, fn: Callable[..., Awaitable[Any] | Any], *args: Any) -> Any:
        """Call once for this run; what it raises is not kept."""
        name = f"step:{_checked(key, 'a step')}"
        kept = (await self._all_notes()).get(name)
        if kept is not None:
            return jsontext.load(kept)
        began = time.perf_counter()
        if inspect.iscoroutinefunction(fn):
            value = await fn(*args)
        else:
            value = await in_thread(lambda: fn(*args), self)
            if inspect.isawaitable(value):
                value = await value
        self.steps = {**(self.steps or {}), key: round(time.perf_counter() - began, 6)}
        data = jsontext.dump(value, f"the value of step {key!r}")
        self._check_size(data, f"the value of step {key!r}")
        self._owned(await self._around.ask(lambda store: store.note(self._job.hold, name, data)))
        (await self._all_notes())[name] = data
        return jsontext.load(data)

    async def ask(self, key: str, question: str, schema: Any = None, timeout: Duration | None = None) -> Any:
        """Return the answer, or unwind the run until there is one."""
        _checked(key, "a question")
        answer = (await self._all_notes()).get(f"answer:{key}")
        if answer is not None:
            return jsontext.load(answer)
        self._check_size(jsontext.dump([question, schema], f"question {key!r}"), f"question {key!r}")
        seconds = None if timeout is None else in_seconds(timeout)
        if seconds is not None and not 0 <= seconds < math.inf:
            raise InvalidEvent(
                f"question {key!r} has the timeout {timeout!r}; use seconds >= 0, or None to wait for ever"
            )
        raise AskSignal(key, question, schema, seconds)

    def usage(self, **amounts: float) -> None:
        """Add to what the run used."""
        used = self.used = {} if self.used is None else self.used
        for name, amount in amounts.items():
            if not _is_number(amount):
                raise InvalidContent(f"usage {name}={amount!r:.80} is no finite number")
            used[_checked(name, "usage")] = used.get(name, 0) + amount

    def abandon(self, ended: asyncio.Future[None]) -> None:
        """Keep the run's slot until ``ended``: a thread of it cannot be stopped (D10)."""
        before = self._job.leftover
        self._job.leftover = ended if before is None or before.done() else asyncio.gather(before, ended)

    async def _all_notes(self) -> dict[str, bytes]:
        if self._notes is None:
            group, event_id = self._job.subscription.group, self._job.event_id
            notes = await self._around.ask(lambda store: store.notes(group, event_id))
            # Steps may run side by side: whoever loaded first has the dict that all add to.
            if self._notes is None:
                self._notes = notes
        return self._notes

    def _owned(self, answer: bool) -> None:
        if not answer:
            raise LeaseLost(f"task {task_id(self.event.id, self.agent)} no longer belongs to this attempt")

    def _check_size(self, data: bytes, what: str) -> None:
        if len(data) > self._around.settings.max_event_bytes:
            raise PayloadTooLarge(
                f"{what} has {len(data)} bytes and max_event_bytes is {self._around.settings.max_event_bytes};"
                " keep large data elsewhere and send a reference"
            )


def _checked(key: Any, what: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        raise InvalidContent(f"{what} is named {key!r:.80}; use a text of 1 to {MAX_KEY} characters")
    jsontext.dump(key, f"the name of {what}")
    return str(key)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
