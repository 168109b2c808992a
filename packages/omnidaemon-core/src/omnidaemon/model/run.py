"""Groups, runs and what passes between worker and store (design §1, §5, §7).

Times in these records are seconds since the epoch on the STORE's clock; durations are seconds.
``data`` is opaque to stores: JSON written and read by the runtime only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "Adoption",
    "Ask",
    "Counts",
    "Deferred",
    "Delivery",
    "DueWant",
    "Grant",
    "GrantKind",
    "Group",
    "Hold",
    "Outcome",
    "OutcomeKind",
    "Outgoing",
    "Receipt",
    "Record",
    "Start",
    "TaskState",
]


class Group(NamedTuple):
    """The consumer group of an agent. Deleting the agent with its group ends the epoch (M8)."""

    topic: str
    agent: str
    epoch: int


class TaskState(StrEnum):
    """States of a task; the last four are final."""

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def final(self) -> bool:
        """Whether the task has its outcome."""
        return self in _FINAL


_FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED})


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins: ``beginning``, ``now``, a ``time`` or a bus ``position``."""

    kind: str
    time: float = 0.0
    position: str = ""

    @classmethod
    def of(cls, value: str | datetime | Start) -> Start:
        """Return the start that users write as ``"beginning"``, ``"now"``, a datetime or a position."""
        if isinstance(value, Start):
            return value
        if isinstance(value, datetime):
            return cls("time", time=value.timestamp())
        return cls(value) if value in ("beginning", "now") else cls("position", position=value)


@dataclass(slots=True)
class Outgoing:
    """An encoded event on its way to a topic. ``key`` is its ordering key, if it has one."""

    topic: str
    id: str
    body: bytes
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A durable publish: where the event lies, as an opaque cursor of that bus."""

    position: str


@dataclass(slots=True)
class Delivery:
    """One hand-over of a fresh event by the bus to one reader.

    Attributes:
        group: For whom.
        id: The event's id; for an entry that carries none, one made from topic and position.
        body: The event, encoded.
        position: Opaque cursor in the topic's history. Of two events of one key the later one has the
            greater numbers in it, compared from the left.
        key: Ordering key, if any.
        after: Id of the closest earlier event of that key which this group may not have finished,
            None when there is none. Set only by buses with ``ordered_by_key``.
        tag: The adapter's own handle for acknowledging.
    """

    group: Group
    id: str
    body: bytes
    position: str
    key: str | None = None
    after: str | None = None
    tag: object = None


@dataclass(slots=True)
class Hold:
    """A claim as its owner names it; ``lease`` is for how long a renewal lasts."""

    group: Group
    event_id: str
    token: str
    lease: float = 0.0


@dataclass(slots=True)
class Ask:
    """A worker's wish to run an event that the bus has delivered.

    Attributes:
        token: Made up by the worker before it asks, so that asking again gives the same answer (M1).
        lane: Events of one lane are granted one at a time, in order.
        after: The predecessor in the lane whose place is to be reserved if nobody has met it (M9).
        takeover: Whether an expired claim of another worker may be taken (M5).
        position: The event's on the bus: its place in the lane follows it, whoever is met first (M9).
    """

    group: Group
    event_id: str
    token: str
    lease: float
    lane: str | None = None
    after: str | None = None
    tenant: str | None = None
    takeover: bool = True
    position: str = ""


class GrantKind(StrEnum):
    """What the store answers to an ask.

    GRANTED: run it. BUSY, BEHIND, SUSPECT: give it to the inbox, then acknowledge. HELD, FINISHED,
    CANCELED: acknowledge. GONE: the agent was deleted; give back and stop serving that group.
    """

    GRANTED = "granted"
    BUSY = "busy"
    BEHIND = "behind"
    SUSPECT = "suspect"
    HELD = "held"
    FINISHED = "finished"
    CANCELED = "canceled"
    GONE = "gone"


@dataclass(slots=True)
class Grant:
    """The store's answer to an ask, and what ``due`` hands out.

    Attributes:
        generation: From 0; replays and answers open the next one.
        attempt: Number of the try that is granted, from 1.
        lost: Starts of this generation whose claim expired without an outcome (D11).
        data: The record's opaque data, empty on a first attempt.
        state: The record's state before the grant; ``input_required`` means unanswered past its time.
        unsent: With FINISHED: follow-ups wait in the outbox (D18).
        body: The event, for a run that comes from the inbox.
        event_id: The run's event.
        token: The claim's token.
    """

    kind: GrantKind
    generation: int = 0
    attempt: int = 1
    lost: int = 0
    data: bytes = b""
    state: TaskState = TaskState.SUBMITTED
    unsent: bool = False
    body: bytes = b""
    event_id: str = ""
    token: str = ""


@dataclass(slots=True)
class DueWant:
    """How many runs of the inbox a worker can start now, for one group.

    Attributes:
        limit: At most so many.
        lease: Lease of the claims, seconds.
        alone: The worker runs nothing else, so it may be given ONE suspect (M10).
        takeover: Whether expired claims may be taken (M5).
    """

    limit: int
    lease: float
    alone: bool = False
    takeover: bool = True


@dataclass(slots=True)
class Adoption:
    """An event that the inbox is to take over from the bus (M2).

    Attributes:
        token: The caller's claim, when it holds one and keeps it (a long run).
        delay: Seconds until it is due; 0 when it waits for its claim or lane to be free.
        position: As for an ask.
    """

    group: Group
    event_id: str
    body: bytes
    token: str | None = None
    lane: str | None = None
    after: str | None = None
    tenant: str | None = None
    delay: float = 0.0
    position: str = ""


@dataclass(slots=True)
class Deferred:
    """A row of the outbox: an event that the store will have published when it is due."""

    event: Outgoing
    delay: float = 0.0
    deliver_at: float | None = None


Counts = Sequence[tuple[str, float]]


class OutcomeKind(StrEnum):
    """How an attempt ended: for good, to be tried again, waiting for an answer, or given back unrun."""

    FINAL = "final"
    RETRY = "retry"
    WAIT = "wait"
    HANDBACK = "handback"


@dataclass(slots=True)
class Outcome:
    """The closing act of one attempt (design: settle).

    Attributes:
        state: FINAL only: the final state.
        data: New opaque data of the record.
        result: The result as JSON, for a completed task.
        body: The event, kept with the record in every state; None where the inbox holds it already.
        attempt: RETRY: number of the next attempt.
        delay: RETRY: seconds until then. WAIT: seconds until the question counts as unanswered, or None.
        question: WAIT: the key of the question.
        dead: FINAL: the dead-letter reason; such a record never expires.
        ttl: FINAL: seconds for which the record is kept.
        mark_ttl: FINAL: the dedup window in seconds; the done mark outlives it as M6 says.
        outbox: Follow-ups, sent only if this outcome is accepted.
        counts: What is added to the metrics of (topic, agent), once, if it is accepted.
        delivery: The delivery to acknowledge in the same step, where bus and store are fused.
    """

    group: Group
    event_id: str
    token: str
    kind: OutcomeKind
    state: TaskState = TaskState.COMPLETED
    data: bytes = b""
    result: bytes | None = None
    body: bytes | None = None
    attempt: int = 1
    delay: float | None = None
    question: str | None = None
    dead: str | None = None
    ttl: float = 86_400.0
    mark_ttl: float = 86_400.0
    outbox: Sequence[Deferred] = ()
    counts: Counts = ()
    tenant: str | None = None
    delivery: Delivery | None = None


@dataclass(slots=True)
class Record:
    """A task as the store keeps it; see the field comments of :class:`Outcome`."""

    group: Group
    event_id: str
    state: TaskState
    generation: int = 0
    attempt: int = 1
    starts: int = 0
    lost: int = 0
    due: float | None = None
    worker: str | None = None
    question: str | None = None
    dead: str | None = None
    tenant: str | None = None
    created: float = 0.0
    updated: float = 0.0
    expires: float | None = None
    data: bytes = b""
    result: bytes | None = None
    body: bytes = b""
    answers: dict[str, bytes] = field(default_factory=dict)
