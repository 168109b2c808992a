"""The Context of a run: progress, follow-ups, steps and questions, all fenced by its claim."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from omnidaemon.model import jsontext
from omnidaemon.model.envelope import EventEnvelope, PayloadBase, derived_id, encode
from omnidaemon.model.errors import InvalidContent, LeaseLost, PayloadTooLarge, TooManyHops
from omnidaemon.model.names import check_topic, task_id
from omnidaemon.model.run import Deferred, Outgoing
from omnidaemon.ports.store import Store
from omnidaemon.runtime.handover import Handover
from omnidaemon.runtime.job import Flag, Job
from omnidaemon.settings import Settings

__all__ = ["AskSignal", "RunContext", "Surroundings", "follow_up"]

_logger = logging.getLogger("omnidaemon.agent")


class AskSignal(BaseException):
    """Ends the attempt until a human has answered."""

    def __init__(self, key: str, question: str, schema: Any, timeout: float | None) -> None:
        self.key, self.question, self.schema, self.timeout = key, question, schema, timeout
        super().__init__(key)


def follow_up(cause: EventEnvelope, topic: str, content: Any, event_id: str, **fields: Any) -> EventEnvelope:
    """Return an event caused by ``cause``: it inherits correlation, tenant and trace (design §4)."""
    payload = PayloadBase(
        content=jsontext.plain(content), webhook=fields.pop("webhook", None), reply_to=fields.pop("reply_to", None)
    )
    inherited = {
        "tenant_id": cause.tenant_id,
        "correlation_id": cause.correlation_id or cause.id,
        "causation_id": cause.id,
        "source": cause.source,
        "traceparent": cause.traceparent,
        "tracestate": cause.tracestate,
    }
    return EventEnvelope(
        **{**inherited, "id": event_id, "topic": topic, "payload": payload, "hops": cause.hops + 1, **fields}
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all runs of a worker share."""

    store: Store
    handover: Handover
    settings: Settings
    state: Any


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
        return self._job.grant.lost + self._job.grant.attempt

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
        await self._append({"message": message, "percent": percent, "data": data})

    async def emit(self, chunk: Any) -> None:
        """Add partial output to the progress stream."""
        await self._append({"chunk": chunk})

    async def _append(self, fields: dict[str, Any]) -> None:
        entry = {"attempt": self.attempt, "generation": self._job.grant.generation, "at": round(time.time(), 3)}
        entry.update({name: jsontext.plain(value) for name, value in fields.items() if value is not None})
        chunk = jsontext.dump(entry, "progress")
        self._check_size(chunk, "a progress entry")
        keep = self._around.settings.result_ttl
        self._owned(await self._around.handover.call_io(self._around.store.append(self._job.hold, [chunk], keep)))

    async def publish(self, topic: str, content: Any, **fields: Any) -> str:
        """Plan a follow-up; its id depends on run, topic and order only, so a retry sends the same event."""
        check_topic(topic)
        if self.event.hops + 1 > self._around.settings.max_hops:
            raise TooManyHops(
                f"event {self.event.id} is {self.event.hops} events away from the first of its chain and max_hops is"
                f" {self._around.settings.max_hops}: agents seem to call each other in a circle"
            )
        job = self._job
        group = job.subscription.group
        default = derived_id(
            group.topic,
            group.agent,
            str(group.epoch),
            job.event_id,
            str(job.grant.generation),
            topic,
            str(len(job.followups)),
        )
        event = follow_up(self.event, topic, content, fields.pop("id", default), **_times(fields))
        body = encode(event)
        self._check_size(body, f"the event for {topic!r}")
        job.followups.append(Deferred(Outgoing(topic, event.id, body, event.lane), deliver_at=event.deliver_at))
        return event.id

    async def step(self, key: str, fn: Callable[..., Awaitable[Any] | Any], *args: Any) -> Any:
        """Call once for this run; what it raises is not kept."""
        name = f"step:{key}"
        kept = (await self._all_notes()).get(name)
        if kept is not None:
            return jsontext.load(kept)
        began = time.perf_counter()
        if inspect.iscoroutinefunction(fn):
            value = await fn(*args)
        else:
            value = await asyncio.to_thread(fn, *args)
            if inspect.isawaitable(value):
                value = await value
        self.steps = {**(self.steps or {}), key: round(time.perf_counter() - began, 6)}
        data = jsontext.dump(jsontext.plain(value), f"the value of step {key!r}")
        self._check_size(data, f"the value of step {key!r}")
        self._owned(await self._around.handover.call_io(self._around.store.note(self._job.hold, name, data)))
        (await self._all_notes())[name] = data
        return jsontext.load(data)

    async def ask(self, key: str, question: str, schema: Any = None, timeout: float | None = None) -> Any:
        """Return the answer, or unwind the run until there is one."""
        answer = (await self._all_notes()).get(f"answer:{key}")
        if answer is not None:
            return jsontext.load(answer)
        raise AskSignal(key, question, schema, timeout)

    def usage(self, **amounts: float) -> None:
        """Add to what the run used."""
        used = self.used = {} if self.used is None else self.used
        for name, amount in amounts.items():
            used[name] = used.get(name, 0) + amount

    def abandon(self, ended: asyncio.Future[None]) -> None:
        """Keep the run's slot until ``ended``: a thread of it cannot be stopped (D10)."""
        self._job.leftover = ended

    async def _all_notes(self) -> dict[str, bytes]:
        if self._notes is None:
            work = self._around.store.notes(self._job.subscription.group, self._job.event_id)
            notes = await self._around.handover.call_io(work)
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


def _times(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn ``delay`` into ``deliver_at`` and datetimes into seconds."""
    from omnidaemon.runtime.outgoing import normalised_times

    try:
        return normalised_times(fields)
    except TypeError as error:
        raise InvalidContent(str(error)) from None
