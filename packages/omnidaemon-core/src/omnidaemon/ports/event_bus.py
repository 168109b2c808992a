"""The EventBus port: what carries fresh events (design §3, §6).

A bus publishes, reads, acknowledges, extends, gives back, reads history, trims, informs and deletes.
It never retries, delays, dead-letters, pauses or replays: the store owns that. A redelivery is
harmless, because it meets the claim.

An instance belongs to the event loop that opened it. Its constructor does no I/O. Every method may
raise ``Closed``, ``BackendUnavailable`` and ``AccessDenied`` besides what it lists; nothing of a
driver's own errors crosses this border. ``CancelledError`` is never mapped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start

__all__ = ["PORT_VERSION", "BusCapabilities", "EventBus", "Figure", "GroupInfo", "Scope", "TopicInfo"]

PORT_VERSION = 1
Scope = Literal["process", "machine", "network"]


@dataclass(frozen=True, kw_only=True)
class BusCapabilities:
    """What a bus declares. Read by the runtime, by the contract suite and by the docs table.

    Attributes:
        name: The name users configure.
        durability: The level an awaited publish reaches: ``process`` (gone with the process),
            ``os`` (survives a crash of the server process), ``disk`` (survives power loss) or
            ``replicated``.
        scope: From where it can be reached.
        ordered_by_key: It hands one key's events to one reader at a time, or names each event's
            predecessor in :attr:`Delivery.after`. Without it the runtime refuses ``key=``.
        history: :meth:`EventBus.history` works.
        history_by_time: History and groups can start at a time.
        trim: :meth:`EventBus.trim` works; a bus without it drops by age on its own.
        late_groups: A group made later gets what was published before, while it is retained.
        exact_lag: ``GroupInfo.lag`` is exact.
        restartable: The server can be restarted apart from this process.
        max_event_bytes: What one event may hold.
        redelivery: What makes the bus deliver again: ``idle`` time, a dropped ``connection``, an
            acknowledgement time-out ``ack_wait``, or re-reading an older ``position``.
        notes: For the docs table: why a capability is absent, by its name.
    """

    name: str
    durability: Literal["process", "os", "disk", "replicated"]
    scope: Scope
    ordered_by_key: bool = False
    history: bool = False
    history_by_time: bool = False
    trim: bool = False
    late_groups: bool = False
    exact_lag: bool = False
    restartable: bool = False
    max_event_bytes: int = 1 << 20
    redelivery: Literal["idle", "connection", "ack_wait", "position"] = "idle"
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and how true it is. ``value`` is None when the quality is ``unknown``."""

    value: int | None
    quality: Literal["exact", "approximate", "unknown"] = "exact"


UNKNOWN = Figure(None, "unknown")


@dataclass(slots=True)
class GroupInfo:
    """A group as the bus sees it.

    Attributes:
        lag: Events not yet read by the group.
        pending: Events read and not acknowledged.
        oldest: Publish time (bus clock, seconds) of the oldest event that the group has not
            finished; None when there is none or the bus cannot tell (see ``lag``).
        position: Cursor up to which the group has read.
        readers: Names of the readers, where the bus knows them.
    """

    group: Group
    lag: Figure
    pending: Figure
    oldest: float | None = None
    position: str = ""
    readers: Sequence[str] = ()


@dataclass(slots=True)
class TopicInfo:
    """A topic as the bus sees it. ``first`` and ``last`` are positions, empty when there is none."""

    topic: str
    length: Figure
    bytes: Figure = UNKNOWN
    first: str = ""
    last: str = ""
    groups: Sequence[GroupInfo] = ()


class EventBus(Protocol):
    """A bus adapter. See the module's docstring for what holds for all methods."""

    port_version: int
    capabilities: BusCapabilities

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened bus.

        Args:
            settings: ``url`` (or None), ``namespace``, ``connect_timeout`` in seconds, ``lease`` in
                seconds (idle time before a redelivery), ``retention`` in seconds, ``topic_max_bytes``
                or None, and ``environ``, a mapping with the adapter's documented variables.
        """
        ...

    @property
    def location(self) -> str:
        """Where it is, without secrets, for logs and ``doctor``."""
        ...

    @property
    def scope(self) -> Scope:
        """From where THIS server can be reached: loopback and unix sockets are ``machine``."""
        ...

    def twin(self, *, lease: float | None = None) -> Self:
        """Return an unopened bus of the same settings and data, for another event loop.

        Args:
            lease: Idle seconds before a redelivery, instead of the settings'; only buses that
                redeliver by idle time need it.
        """
        ...

    async def open(self) -> None:
        """Connect. Raises at once for wrong credentials, ``BackendUnavailable`` when not reachable."""
        ...

    async def close(self) -> None:
        """Let go of everything; what was delivered and not acknowledged stays the group's. Idempotent."""
        ...

    async def ping(self) -> None:
        """Ask the server whether it answers."""
        ...

    async def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """Make the topic, and each group at its start, unless it exists: then its position stays.

        Called before the group's first read in this process: where positions can be set only while
        nobody reads (Kafka), this is the time.
        """
        ...

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:
        """Store events durably, in order, for the price of one round trip (P1, P8, P9).

        Returns:
            One entry an event: a receipt; or ``BackendUnavailable`` (surely not stored),
            ``PublishUncertain`` (sent, not confirmed), ``PayloadTooLarge``, ``BusFull``, and
            ``NotAttempted`` for later events of a key after its first failure. Never raises for
            one event what would hide the others' outcomes.
        """
        ...

    async def read(self, want: Mapping[Group, int], wait: float) -> list[Delivery]:
        """Read fresh and redeliverable events for the groups in ``want``, at most so many for each.

        Returns as soon as there is something, else an empty list after about ``wait`` seconds. A
        want of 0 keeps the place in the group and delivers nothing. An event that nobody extends
        or acknowledges is delivered again, to anyone in the group, in the manner of ``redelivery``.
        A group that is not there is left out.
        """
        ...

    async def ack(self, batch: Sequence[Delivery]) -> None:
        """Finish deliveries. May get lost on the way: then they come again (D18)."""
        ...

    async def extend(self, batch: Sequence[Delivery]) -> list[bool | None]:
        """Restart the redelivery clock; False = no longer this reader's, None = the bus cannot tell."""
        ...

    async def give_back(self, batch: Sequence[Delivery]) -> None:
        """Make deliveries available to the group again at once, uncounted.

        Those of one key come back in the order they were published in. Leaving a group out of the
        next ``want`` must not let another reader overtake what this one still holds.
        """
        ...

    def history(self, topic: str, start: Start, end: Start) -> AsyncIterator[tuple[str, bytes]]:
        """Iterate over (position, body) of what the topic retains, without a group (H1).

        Both ends are inclusive, as positions and as times; ``end`` of kind ``now`` is the last event
        there is when it begins.

        Raises:
            UnsupportedCapability: Without ``history``, or by time without ``history_by_time``.
        """
        ...

    async def trim(self, topic: str, before: float) -> int:
        """Remove events published before that time which EVERY group has finished; return how many (P7).

        Every group is asked first: no server forgets what is pending below a cut by itself.
        """
        ...

    async def info(self, topic: str) -> TopicInfo:
        """Describe a topic and its groups; an unknown topic has length 0 and no groups."""
        ...

    async def topics(self) -> list[str]:
        """Return the topics of this namespace, sorted."""
        ...

    async def delete(self, what: Group | str) -> int:
        """Delete a group, or a topic with its groups and events; return how many events went.

        That is 0 for a group, whose events stay for the others, and for what is not there.
        """
        ...
