"""The Store port: what owns the work (design §3, §6, §7).

A store keeps one record per run and decides, each in ONE atomic step, who may run it, what became
of it and when it is due again. Its clock is the only one that leases and due times are compared on.
Methods are idempotent where the text says so, because a reply can get lost (M1).

``Ledger`` in :mod:`omnidaemon.ports.ledger` is this contract as plain code over a few tables; a
store with transactions of its own can be built on it, others say the same in their own language.

An instance belongs to the event loop that opened it; the constructor does no I/O. Every method may
raise ``Closed``, ``BackendUnavailable`` and ``AccessDenied``; then nothing is known of the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    Delivery,
    DueWant,
    Grant,
    Group,
    Hold,
    Outcome,
    Outgoing,
    Record,
    TaskState,
)
from omnidaemon.ports.event_bus import EventBus, Scope

__all__ = [
    "AgentRow",
    "Decision",
    "Due",
    "Fusion",
    "MetricRow",
    "Page",
    "Put",
    "Query",
    "Retired",
    "Store",
    "StoreCapabilities",
    "Versioned",
]


@dataclass(frozen=True, kw_only=True)
class StoreCapabilities:
    """What a store declares.

    Attributes:
        name: The name users configure.
        durability: As for a bus.
        scope: From where it can be reached; narrower than the bus is refused (S11).
        restartable: The server can be restarted apart from this process.
        notes: For the docs table.
    """

    name: str
    durability: Literal["process", "os", "disk", "replicated"]
    scope: Scope
    restartable: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Due:
    """What ``due`` hands out.

    Attributes:
        grants: Claimed runs of each group, oldest due time first.
        suspects: Groups that hold a suspect, which only a worker that is ``alone`` gets (M10).
        next_in: Seconds until something else of these groups is due, None when nothing is.
    """

    grants: dict[Group, list[Grant]]
    suspects: frozenset[Group] = frozenset()
    next_in: float | None = None


@dataclass(slots=True)
class Decision:
    """A compare-and-set from outside on one run (cancel, answer, replay).

    Attributes:
        verb: ``cancel``: ends it unless it has ended; a run that nobody has met gets a mark that
            its claim obeys. ``answer``: reopens a run that waits for ``question``. ``replay``:
            reopens a dead letter. ``rerun``: reopens any final run, or makes one, from ``body``
            (history replay); a live one answers ``busy``.
        op: Id of the operation; the same op again gives the same answer and changes nothing (M7).
        ttl: Seconds for which a cancelled task's record, or a mark for an unmet one, is kept.
        data: ``cancel``: data of the record if there is none. ``rerun``: data of the new run.
    """

    verb: Literal["cancel", "answer", "replay", "rerun"]
    group: Group
    event_id: str
    op: str
    question: str | None = None
    value: bytes = b""
    body: bytes = b""
    data: bytes = b""
    lane: str | None = None
    tenant: str | None = None
    ttl: float = 86_400.0


@dataclass(slots=True)
class AgentRow:
    """A registered agent. ``data`` is opaque: its description, configuration and so on."""

    topic: str
    agent: str
    epoch: int
    deleted: bool
    data: bytes
    registered_at: float

    @property
    def group(self) -> Group:
        """The group of its current epoch."""
        return Group(self.topic, self.agent, self.epoch)


@dataclass(slots=True)
class Retired:
    """What went with a deleted agent (C3)."""

    existed: bool
    inbox: int = 0
    outbox: int = 0
    dead_letters: int = 0


@dataclass(slots=True)
class Query:
    """Which records; None means any.

    Attributes:
        since: Records whose ``updated`` is at or after that time on the store's clock.
        until: Records whose ``updated`` is before it.
    """

    topic: str | None = None
    agent: str | None = None
    event_ids: Sequence[str] | None = None
    states: Sequence[TaskState] | None = None
    dead: bool | None = None
    tenant: str | None = None
    since: float | None = None
    until: float | None = None


T = TypeVar("T")


@dataclass(slots=True)
class Page(Generic[T]):
    """One page; ``cursor`` is None on the last one."""

    items: list[T]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value and its version, which counts from 1, and from 1 again after a deletion or an expiry."""

    key: str
    value: bytes
    version: int


@dataclass(slots=True)
class Put:
    """A write of one key; ``value`` None deletes.

    Attributes:
        ttl: Seconds after which it is gone, None for never.
        expect: Write only if this is the version now; 0 = only if there is none; None = in any case.
            A version tells the writes of one lifetime apart: a key that was deleted or has expired
            counts from 1 again. Who may come back so late puts something unique into the value, and
            compares that too.
    """

    key: str
    value: bytes | None
    ttl: float | None = None
    expect: int | None = None


@dataclass(slots=True)
class MetricRow:
    """Sums of one agent's counts over the time that was asked for."""

    topic: str
    agent: str
    counts: dict[str, float]


class Fusion(Protocol):
    """Bus and store on one server: the read is the claim, and settling acknowledges."""

    async def take(
        self, worker: str, call: str, want: Mapping[Group, DueWant], wait: float
    ) -> list[tuple[Delivery, Grant]]:
        """Read and claim in one step; answers as ``read`` and ``claim`` together would.

        Tokens are ``<call>.<n>``; the same ``call`` again hands out what it granted before (M1). The
        delivery of an answer other than GRANTED is treated as after
        a claim. ``settle`` then acknowledges :attr:`Outcome.delivery` itself.
        """
        ...


class Store(Protocol):
    """A store adapter. See the module's docstring for what holds for all methods."""

    port_version: int
    capabilities: StoreCapabilities

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened store; ``settings`` as for a bus."""
        ...

    @property
    def location(self) -> str:
        """Where it is, without secrets, for logs and ``doctor``."""
        ...

    @property
    def scope(self) -> Scope:
        """From where THIS server can be reached."""
        ...

    def twin(self) -> Self:
        """Return an unopened store of the same settings and data, for another event loop."""
        ...

    def fuse(self, bus: EventBus) -> Fusion | None:
        """Return the fused arrangement with ``bus`` (both open) if both are one server, else None."""
        ...

    async def open(self) -> None:
        """Connect and migrate; safe with several processes starting at once (S13)."""
        ...

    async def close(self) -> None:
        """Let go of everything. Idempotent."""
        ...

    async def ping(self) -> None:
        """Ask the server whether it answers."""
        ...

    async def now(self) -> float:
        """Return the store's clock."""
        ...

    async def enroll(self, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
        """Register an agent, or update its data; return its row and whether it was deleted before.

        A deleted agent's row comes back alive under the epoch that its deletion left.
        """
        ...

    async def agents(self) -> list[AgentRow]:
        """Return all agents, tombstones (``deleted``) included, sorted by topic and name."""
        ...

    async def retire(self, topic: str, agent: str, *, group: bool, dead_letters: bool) -> Retired:
        """Leave a tombstone (C3). With ``group`` the epoch ends, and its inbox and outbox go with it.

        Its final records stay readable under the old epoch until they expire or are removed, and are
        in nobody's way: what the next epoch does with an event begins without them (M8).
        """
        ...

    async def claim(self, worker: str, asks: Sequence[Ask]) -> list[Grant]:
        """Decide for each ask who may run it (S3, M1, M2, M9); repeatable with the same tokens."""
        ...

    async def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """Claim what is due in the inbox; the same ``call`` again hands out the same (M1)."""
        ...

    async def renew(self, holds: Sequence[Hold]) -> list[bool]:
        """Extend claims; False only when the hold is definitely not the owner any more (D4)."""
        ...

    async def adopt(self, items: Sequence[Adoption]) -> list[bool]:
        """Take events over from the bus unless finished, cancelled or gone (M2).

        Returns:
            True where the delivery may be acknowledged, False where a token was given that is not
            the owner's.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Close attempts; True = accepted, now or by an earlier call of the same token (S9)."""
        ...

    async def decide(self, decision: Decision) -> str:
        """Apply a decision; return ``done``, or why not: a state's name, ``busy``, ``stale``, ``unknown``."""
        ...

    async def append(self, hold: Hold, chunks: Sequence[bytes], keep: float) -> bool:
        """Add to the run's progress stream if the hold owns it; kept ``keep`` seconds after the last."""
        ...

    async def follow(self, topic: str, agent: str, event_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return progress chunks numbered above ``after``; numbers rise by one from 1."""
        ...

    async def note(self, hold: Hold, key: str, value: bytes) -> bool:
        """Keep a step's value with the run if the hold owns it; it lives as long as the record."""
        ...

    async def notes(self, group: Group, event_id: str) -> dict[str, bytes]:
        """Return the kept steps of a run, and the answers as ``answer:<question>``."""
        ...

    async def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """Accept events to be published later; False for an id that waits already (P5, M11)."""
        ...

    async def outbox(self, worker: str, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:
        """Lease due rows to this relay; also seconds until the next is due, None when nothing waits.

        A row is held, and not due, while an earlier one of the same topic and key is leased: by due
        time, then by acceptance. Those of one key that one call returns are in that order (S12).
        """
        ...

    async def sent(self, rows: Sequence[Outgoing]) -> None:
        """Remove rows whose publish was confirmed."""
        ...

    async def records(self, query: Query, cursor: str | None = None, limit: int = 100) -> Page[Record]:
        """Page through records, newest update first; expired ones are never returned (S2, S4).

        Records of ``event_ids`` come with body and result; so do all others.
        """
        ...

    async def remove(self, query: Query) -> int:
        """Remove FINAL records; done marks and counters stay (S5). Returns how many."""
        ...

    async def count(self, group: Group) -> dict[str, int]:
        """Return ``inbox``, ``working``, ``dead_letters`` and ``waiting`` of a group, exact.

        ``inbox`` leaves out what waits for an answer. Dead letters are the agent's, of every epoch.
        """
        ...

    async def forget(self, group: Group, before: float) -> int:
        """Drop done marks settled before that time whose own window has passed; return how many (M6).

        A store whose server does not remove by itself what has expired does it here, and some of it
        with each ``put`` of what expires.
        """
        ...

    async def metrics(
        self, topic: str | None = None, agent: str | None = None, since: float | None = None, until: float | None = None
    ) -> list[MetricRow]:
        """Return sums by agent; without times since ever, else of the whole minutes in between."""
        ...

    async def clear_metrics(self) -> int:
        """Forget all counts; return how many rows went."""
        ...

    async def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """Read keys of a namespace of small values (config, flags, heartbeats, sessions)."""
        ...

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """Write all items in one step; False where ``expect`` did not hold (that item is not written)."""
        ...

    async def scan(self, ns: str, cursor: str | None = None, limit: int = 1000) -> Page[Versioned]:
        """Page through a namespace by key."""
        ...
