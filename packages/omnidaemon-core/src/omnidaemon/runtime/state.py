"""What the parts of one worker share, and how they survive an outage (L2)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Delivery, Group, Outcome, Outgoing
from omnidaemon.ports.clock import Clock
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Fusion, Store
from omnidaemon.runtime.handover import Handover, Mailbox
from omnidaemon.runtime.job import Job, Subscription
from omnidaemon.settings import Settings

__all__ = ["BACKOFF_MAX", "WorkerState"]

_logger = logging.getLogger("omnidaemon.worker")
T = TypeVar("T")
BACKOFF_MAX = 5.0
FLAGS_TTL = 2.0


@dataclass(slots=True, eq=False)
class WorkerState:
    """Belongs to the I/O loop; only ``mailbox`` may be used from the agents' loop.

    Attributes:
        name: Unique for each start of a process, readable.
        jobs: Claimed runs by token, until they are settled.
        finished: Ended attempts that wait for the next settle.
        doubtful: Deliveries of runs that others may have taken over: only the store knows.
        outgoing: Follow-ups of accepted settles, leased to this worker, to be published next.
        stopping: No intake any more.
        quiet: A suspect waits for this worker to have emptied itself (M10).
        inbox_waits: The inbox holds something due that nobody has taken.
        flags_at: Monotonic time of which the agents' flags are known.
        takeover_at: Monotonic time before which no expired claim is taken over (M5).
        calm_since: Monotonic time since which bus and store have been there.
        trouble: What is unreachable now, with the error's text; empty when all is well.
    """

    name: str
    bus: EventBus
    store: Store
    fusion: Fusion | None
    clock: Clock
    settings: Settings
    handover: Handover
    subscriptions: dict[Group, Subscription] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    finished: deque[tuple[Job, Outcome]] = field(default_factory=deque)
    doubtful: list[Delivery] = field(default_factory=list)
    outgoing: deque[Outgoing] = field(default_factory=deque)
    to_agents: Mailbox | None = None
    stopping: bool = False
    closing: bool = False
    quiet: bool = False
    inbox_waits: bool = False
    flags_at: float = float("-inf")
    takeover_at: float = 0.0
    calm_since: float = 0.0
    trouble: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    wake_intake: asyncio.Event = field(default_factory=asyncio.Event)
    wake_due: asyncio.Event = field(default_factory=asyncio.Event)
    wake_settle: asyncio.Event = field(default_factory=asyncio.Event)
    wake_relay: asyncio.Event = field(default_factory=asyncio.Event)
    wake_leases: asyncio.Event = field(default_factory=asyncio.Event)
    wake_control: asyncio.Event = field(default_factory=asyncio.Event)
    wake_janitor: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    rng: random.Random = field(default_factory=random.Random)
    _back: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _prefix: str = field(default_factory=lambda: secrets.token_hex(6))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def token(self) -> str:
        """Return a claim's token, or a call's id, that was never used before (S3)."""
        return f"{self._prefix}.{next(self._numbers):x}"

    @property
    def may_start(self) -> bool:
        """Whether the flags are known well enough for new work: a pause holds within 2 s (C1, M4)."""
        return not self.stopping and self.clock.monotonic() - self.flags_at <= FLAGS_TTL

    @property
    def may_take_over(self) -> bool:
        """Whether owners have had the time to renew after an outage (M5)."""
        return "store" not in self.trouble and self.clock.monotonic() >= self.takeover_at

    @property
    def shortest_lease(self) -> float:
        """The shortest lease of the agents served, seconds."""
        return min((sub.lease for sub in self.subscriptions.values()), default=15.0)

    @property
    def longest_lease(self) -> float:
        """The longest lease of the agents served, seconds."""
        return max((sub.lease for sub in self.subscriptions.values()), default=0.0)

    def retry_pause(self) -> float:
        """Return the seconds after which a loop tries again: what its lost call was granted has not expired then."""
        return self.rng.uniform(0.1, 1.0) * min(1.0, self.shortest_lease / 3)

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Queue an attempt's end for the next settle."""
        job.outcome = outcome
        self.finished.append((job, outcome))
        self.wake_settle.set()

    def forget(self, job: Job) -> None:
        """Drop a run that is settled, or no longer this worker's."""
        job.task = None
        if self.jobs.pop(job.token, None) is not None and not self.jobs:
            self.idle.set()

    def abandon(self, job: Job) -> None:
        """Drop a run that is no longer this worker's; what becomes of its delivery is asked later (M3)."""
        self.forget(job)
        if job.delivery is not None:
            self.doubtful.append(job.delivery)
            self.wake_settle.set()

    def failed(self, part: str, error: BaseException) -> None:
        """Note that a backend cannot be reached; where both are one server, that is the store as well."""
        if part == "bus" and self.fusion is not None:
            part = "store"
        if part not in self.trouble:
            _logger.warning("worker %s: the %s is not reachable: %s", self.name, part, error, extra={"part": part})
        self.trouble[part] = str(error)

    def connected(self) -> None:
        """Give owners half a lease to renew what expired while the store was gone, perhaps (M5)."""
        self.calm_since = self.clock.monotonic()
        self.takeover_at = self.calm_since + self.longest_lease / 2

    def recovered(self, part: str) -> None:
        """Note that a backend answers again; owners get half a lease before anything is taken over."""
        if part == "bus" and self.fusion is not None:
            part = "store"
        if self.trouble.pop(part, None) is None:
            return
        self.calm_since = self.clock.monotonic()
        _logger.warning("worker %s: the %s is reachable again", self.name, part, extra={"part": part})
        # Whoever waits to try again does so now: what it had asked for may be expiring.
        self._back[part].set()
        del self._back[part]
        if part == "store":
            self.connected()
            self.wake_leases.set()
        self.wake_control.set()

    async def insist(self, part: str, call: Callable[[], Awaitable[T]], *, until: float | None = None) -> T:
        """Await ``call()`` again and again until the backend answers (L2, M1: calls are repeatable).

        Args:
            part: ``bus`` or ``store``, for health.
            call: Makes a fresh awaitable for each try.
            until: Monotonic time after which the last error is raised instead.

        Raises:
            BackendError: ``until`` has passed, or the worker is closing.
        """
        pause = 0.1
        while True:
            try:
                answer = await call()
            except Closed:
                raise
            except BackendError as error:
                self.failed(part, error)
                if self.closing or (until is not None and self.clock.monotonic() >= until):
                    raise
                await self.clock.wait(self._back[part], pause * self.rng.uniform(0.5, 1.0))
                pause = min(BACKOFF_MAX, pause * 2)
            else:
                self.recovered(part)
                return answer
