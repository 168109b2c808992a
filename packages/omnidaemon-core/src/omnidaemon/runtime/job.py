"""A claimed run on its way through a worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omnidaemon.model.agent import AgentConfig
from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.model.run import Deferred, Delivery, Grant, Group, Hold, Outcome
from omnidaemon.ports.runner import Runner

if TYPE_CHECKING:
    from omnidaemon.runtime.context import RunContext

__all__ = ["Flag", "Job", "Subscription"]


class Flag:
    """Set once, read from any thread; an ``Event`` that nobody waits for, at a tenth of its price."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it for good."""
        self._set = True


@dataclass(slots=True, eq=False)
class Subscription:
    """An agent as this worker serves it.

    Attributes:
        busy: Runs handed to the agents' loop and not finished, waiting ones included.
        from_inbox: Those of them that came from the inbox.
        paused: The flag as last read; ``flags_read`` tells whether it was.
        gone: The agent was deleted; nothing is read for it any more.
        backlog: Whether the last read brought as much as was asked for.
        rate: Runs finished per second, smoothed; ``finished`` counts since it was last taken.
        inbox_ready: Slots are to be left for the inbox.
    """

    config: AgentConfig
    runner: Runner
    group: Group
    running: int = 0
    busy: int = 0
    from_inbox: int = 0
    paused: bool = False
    flags_read: bool = False
    gone: bool = False
    backlog: bool = False
    rate: float = 0.0
    finished: int = 0
    last_read: float = 0.0
    inbox_ready: bool = False

    @property
    def limit(self) -> int:
        """How many may run at a time."""
        return self.config.config.max_concurrency

    @property
    def lease(self) -> float:
        """Lease of its claims, seconds."""
        return self.config.config.lease


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one run, between grant and settle.

    Attributes:
        delivery: The bus's hand-over, None for a run from the inbox or once it is acknowledged.
        claimed: Monotonic time at which the claim was asked for.
        adopted: The inbox holds the event.
        slot: It counts as one of its agent's ``busy`` ones.
        abort: Why the run was told to stop (``lost``, ``handback``), None otherwise.
        leftover: Set while a thread that could not be stopped still runs.
    """

    subscription: Subscription
    event_id: str
    token: str
    grant: Grant
    body: bytes
    claimed: float
    delivery: Delivery | None = None
    event: EventEnvelope | None = None
    adopted: bool = False
    from_inbox: bool = False
    slot: bool = False
    started: float = 0.0
    cancelled: Flag = field(default_factory=Flag)
    abort: str | None = None
    task: asyncio.Task[None] | None = None
    context: RunContext | None = None
    followups: list[Deferred] = field(default_factory=list)
    leftover: asyncio.Future[Any] | None = None
    outcome: Outcome | None = None

    @property
    def hold(self) -> Hold:
        """The claim, as the store knows it."""
        return Hold(self.subscription.group, self.event_id, self.token, self.subscription.lease)
