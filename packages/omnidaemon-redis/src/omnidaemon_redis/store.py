"""The Store port on Redis: every decision is one Lua script in the slot of the topic it is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from omnidaemon.model.errors import Closed
from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    DueWant,
    Grant,
    Group,
    Hold,
    Outcome,
    Outgoing,
    Record,
)
from omnidaemon.ports.event_bus import PORT_VERSION, EventBus, Scope
from omnidaemon.ports.store import (
    AgentRow,
    Decision,
    Due,
    Fusion,
    MetricRow,
    Page,
    Put,
    Query,
    Retired,
    Store,
    StoreCapabilities,
    Versioned,
)
from omnidaemon_redis import _agents, _inspect, _records
from omnidaemon_redis._fusion import RedisFusion
from omnidaemon_redis._idle import IdleGroups
from omnidaemon_redis._names import home, optional, raw, slot, text
from omnidaemon_redis._outbox import Outbox
from omnidaemon_redis._runs import adoption_args, ask_args, due_args, grant, group_args, hold_args, ms
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer
from omnidaemon_redis._settings import RedisSettings
from omnidaemon_redis._settle import Settler
from omnidaemon_redis._url import parse
from omnidaemon_redis._values import Values
from omnidaemon_redis.event_bus import RedisEventBus

__all__ = ["RedisStore"]

T = TypeVar("T")
_CLAIMS = 256
_DUE = 50
_BUCKETS = 64


class RedisStore:
    """A store on Redis 7 or Valkey.

    Args:
        url: See the package's README; None is the server of this machine.
        namespace: Prefix of all keys.
        connect_timeout: Seconds for a connection to be made.
        metrics_ttl: Seconds for which counts by the minute are kept.
    """

    port_version = PORT_VERSION
    capabilities = StoreCapabilities(name="redis", durability="os", scope="network", restartable=True)

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "omni",
        connect_timeout: float = 5.0,
        metrics_ttl: float = 25 * 3600.0,
    ) -> None:
        self.settings = RedisSettings(parse(url), namespace, connect_timeout, metrics_ttl=metrics_ttl)
        self._open: _Open | None = None
        self._fused = False
        self._due_idle = IdleGroups()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened store; ``environ`` may hold ``REDIS_URL``."""
        store = cls()
        store.settings = RedisSettings.of(settings)
        return store

    def __repr__(self) -> str:
        return f"RedisStore({self.location!r}, namespace={self.settings.namespace!r})"

    @property
    def location(self) -> str:
        """The URL without secrets."""
        return self.settings.address.location

    @property
    def scope(self) -> Scope:
        """From where this server can be reached."""
        return self.settings.address.scope

    def twin(self) -> Self:
        """Return an unopened store of the same settings."""
        twin = type(self)()
        twin.settings = self.settings
        return twin

    def fuse(self, bus: EventBus) -> Fusion | None:
        """Return the fused arrangement with a bus on the same server and of the same namespace."""
        if not isinstance(bus, RedisEventBus):
            return None
        own, other = self.settings, bus.settings
        if own.address != other.address or own.namespace != other.namespace:
            return None
        self.opened("fuse")
        self._fused = True
        return RedisFusion(bus)

    async def open(self) -> None:
        """Connect, and check that the server can keep records."""
        if self._open is not None:
            return
        server = self.settings.server("omnidaemon-store")
        await server.open()
        try:
            durability = await _inspect.check(server)
        except BaseException:
            await server.close()
            raise
        self.capabilities = replace(type(self).capabilities, durability=durability)
        self._open = _Open(server, self.settings)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        opened, self._open = self._open, None
        self._fused = False
        if opened is not None:
            await opened.server.close()

    async def ping(self) -> None:
        """Ask the server whether it answers."""
        await self.opened("ping").server.one(Call(b"PING", b""))

    async def now(self) -> float:
        """Return the server's clock."""
        return int(await self._run("now", "clock", home(self.settings.namespace), ())) / 1000

    async def enroll(self, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
        """See the port."""
        return await _agents.enroll(self.opened("enroll").server, self.settings.namespace, topic, agent, data)

    async def agents(self) -> list[AgentRow]:
        """See the port."""
        return await _agents.agents(self.opened("agents").server, self.settings.namespace)

    async def retire(self, topic: str, agent: str, *, group: bool, dead_letters: bool) -> Retired:
        """See the port."""
        rows = [row for row in await self.agents() if (row.topic, row.agent) == (topic, agent)]
        if not rows:
            return Retired(existed=False)
        letters = await self.remove(Query(topic=topic, agent=agent, dead=True)) if dead_letters else 0
        prefix = slot(self.settings.namespace, topic)
        existed, runs, unsent = await self._run("retire", "retire", prefix, (prefix, agent, int(group)))
        return Retired(bool(existed), runs, unsent, letters)

    async def claim(self, worker: str, asks: Sequence[Ask]) -> list[Grant]:
        """See the port."""
        head = (raw(worker),)
        answers = await self._each("claim", "claim", asks, lambda ask: ask_args(self.settings.namespace, ask), head)
        return [grant(answer) for answer in answers]

    async def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """See the port."""
        server, namespace = self.opened("due").server, self.settings.namespace
        due = Due({})
        suspects: set[Group] = set()
        number = 0
        for part in await self._due_parts(want):
            args: list[Any] = [raw(worker), raw(call), number, int(bool(due.grants))]
            for group in part:
                args += due_args(namespace, group, want[group])
            number, grants, places, soonest = await server.one(Call(script("due"), args[4] + b"s", args))
            for place, answer in grants:
                due.grants.setdefault(part[place], []).append(grant(answer))
            suspects.update(part[place] for place in places)
            if soonest:
                wait = max(0.0, int(soonest) / 1000)
                due.next_in = wait if due.next_in is None else min(due.next_in, wait)
        due.suspects = frozenset(suspects)
        return due

    async def _due_parts(self, want: Mapping[Group, DueWant]) -> list[list[Group]]:
        """Divide groups into those that one script can serve, without those that keep no run at all."""
        groups, server = list(want), self.opened("due").server
        if isinstance(server, SingleServer):
            if len(groups) > _DUE:
                groups = await self._due_idle.busy(server, self.settings.namespace, groups)
            return [groups[at : at + _DUE] for at in range(0, len(groups), _DUE)]
        topics: dict[str, list[Group]] = {}
        for group in groups:
            topics.setdefault(group.topic, []).append(group)
        return list(topics.values())

    async def renew(self, holds: Sequence[Hold]) -> list[bool]:
        """See the port."""
        answers = await self._each("renew", "hold", holds, lambda hold: hold_args(self.settings.namespace, hold))
        return [bool(answer) for answer in answers]

    async def adopt(self, items: Sequence[Adoption]) -> list[bool]:
        """See the port."""
        answers = await self._each("adopt", "adopt", items, lambda item: adoption_args(self.settings.namespace, item))
        return [bool(answer) for answer in answers]

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See the port. Fused, it also acknowledges the deliveries of accepted outcomes."""
        opened = self.opened("settle")
        topics = {outcome.group.topic for outcome in outcomes if outcome.outbox}
        if topics:
            await opened.outbox.announce(topics)
        answers = await opened.settler.settle(outcomes, fused=self._fused)
        for outcome, accepted in zip(outcomes, answers, strict=True):
            if accepted and outcome.outbox:
                opened.outbox.remember(outcome.group.topic, [row.event for row in outcome.outbox])
        return answers

    async def decide(self, decision: Decision) -> str:
        """See the port."""
        args = (
            *group_args(self.settings.namespace, decision.group),
            decision.verb,
            raw(decision.event_id),
            raw(decision.op),
            optional(decision.question),
            decision.value,
            decision.body,
            decision.data,
            optional(decision.lane),
            optional(decision.tenant),
            ms(decision.ttl),
            ms(self.settings.metrics_ttl),
        )
        return bytes(await self._run("decide", "decide", args[0], args)).decode()

    async def append(self, hold: Hold, chunks: Sequence[bytes], keep: float) -> bool:
        """See the port."""
        args = (*hold_args(self.settings.namespace, hold)[:5], max(1, ms(keep)), *chunks)
        return bool(await self._run("append", "progress", args[0], args))

    async def follow(self, topic: str, agent: str, event_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See the port."""
        prefix = slot(self.settings.namespace, topic)
        reply = await self._run("follow", "follow", prefix, (prefix, agent, raw(event_id), after, limit))
        return [(int(reply[0]) + place, chunk) for place, chunk in enumerate(reply[1:])] if reply else []

    async def note(self, hold: Hold, key: str, value: bytes) -> bool:
        """See the port."""
        args = (*hold_args(self.settings.namespace, hold)[:5], raw(key), value)
        return bool(await self._run("note", "note", args[0], args))

    async def notes(self, group: Group, event_id: str) -> dict[str, bytes]:
        """See the port."""
        args = (*group_args(self.settings.namespace, group), raw(event_id))
        flat = await self._run("notes", "notes", args[0], args)
        return {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    async def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """See the port."""
        return await self.opened("defer").outbox.defer(rows)

    async def outbox(self, worker: str, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:  # noqa: ARG002 - leases are by row, whoever holds them
        """See the port."""
        return await self.opened("outbox").outbox.lease(limit, lease)

    async def sent(self, rows: Sequence[Outgoing]) -> None:
        """See the port."""
        await self.opened("sent").outbox.sent(rows)

    async def records(self, query: Query, cursor: str | None = None, limit: int = 100) -> Page[Record]:
        """See the port."""
        server = self.opened("records").server
        return await _records.list_records(server, self.settings.namespace, await self.agents(), query, cursor, limit)

    async def remove(self, query: Query) -> int:
        """See the port."""
        server = self.opened("remove").server
        return await _records.remove_records(server, self.settings.namespace, await self.agents(), query)

    async def count(self, group: Group) -> dict[str, int]:
        """See the port."""
        args = group_args(self.settings.namespace, group)
        inbox, working, waiting, dead = await self._run("count", "count", args[0], args)
        return {"inbox": inbox, "working": working, "waiting": waiting, "dead_letters": dead}

    async def forget(self, group: Group, before: float) -> int:
        """See the port."""
        head = (*group_args(self.settings.namespace, group), math.ceil(before * 1000 - 1e-6))
        dropped, first, more = 0, 0, 1
        while more:
            gone, more = await self._run("forget", "forget", head[0], (*head, first, _BUCKETS))
            dropped += gone
            first += _BUCKETS
        return dropped

    async def metrics(
        self, topic: str | None = None, agent: str | None = None, since: float | None = None, until: float | None = None
    ) -> list[MetricRow]:
        """See the port."""
        server = self.opened("metrics").server
        return await _agents.metrics(server, self.settings, topic, agent, since, until)

    async def clear_metrics(self) -> int:
        """See the port."""
        return await _agents.clear_metrics(self.opened("clear_metrics").server, self.settings)

    async def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """See the port."""
        return await self.opened("get").values.get(ns, keys)

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """See the port."""
        return await self.opened("put").values.put(ns, items)

    async def scan(self, ns: str, cursor: str | None = None, limit: int = 1000) -> Page[Versioned]:
        """See the port."""
        return await self.opened("scan").values.scan(ns, cursor, limit)

    def opened(self, operation: str) -> _Open:
        """Return the open state.

        Raises:
            Closed: It is not open.
        """
        if self._open is None:
            raise Closed(f"RedisStore.{operation}: the store is not open, call open() first")
        return self._open

    async def _run(self, operation: str, name: str, key: bytes, args: Sequence[Any]) -> Any:
        return await self.opened(operation).server.one(Call(script(name), key + b"s", args))

    async def _each(
        self,
        operation: str,
        name: str,
        items: Sequence[T],
        describe: Callable[[T], tuple[Any, ...]],
        head: tuple[Any, ...] = (),
    ) -> list[Any]:
        """Run a script that answers each item, once for each slot and some hundred items."""
        server = self.opened(operation).server
        slots: dict[bytes, list[int]] = {}
        described = [describe(item) for item in items]
        for place, args in enumerate(described):
            slots.setdefault(args[0] if server.cluster else b"", []).append(place)
        calls, parts = [], []
        for found in slots.values():
            for at in range(0, len(found), _CLAIMS):
                part = found[at : at + _CLAIMS]
                flat = [*head, *(arg for place in part for arg in described[place])]
                calls.append(Call(script(name), described[part[0]][0] + b"s", flat))
                parts.append(part)
        answers: list[Any] = [None] * len(items)
        for part, reply in zip(parts, await server.all(calls) if calls else [], strict=True):
            for place, answer in zip(part, reply, strict=True):
                answers[place] = answer
        return answers


class _Open:
    """What an open store has."""

    __slots__ = ("outbox", "server", "settler", "values")

    def __init__(self, server: Any, settings: RedisSettings) -> None:
        self.server = server
        self.outbox = Outbox(server, settings.namespace)
        self.settler = Settler(server, settings.namespace, settings.metrics_ttl, settings.retention)
        self.values = Values(server, settings.namespace)


if TYPE_CHECKING:
    _: type[Store] = RedisStore
