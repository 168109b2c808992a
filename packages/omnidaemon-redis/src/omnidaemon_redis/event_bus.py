"""The EventBus port on Redis Streams."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from omnidaemon.model.errors import Closed
from omnidaemon.model.run import Delivery, Group, Outgoing, Receipt, Start
from omnidaemon.ports.event_bus import PORT_VERSION, BusCapabilities, EventBus, Scope, TopicInfo
from omnidaemon_redis import _inspect
from omnidaemon_redis._intake import Intake, Parsed, Wish
from omnidaemon_redis._names import group_name, home, slot, text
from omnidaemon_redis._publish import Publisher
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call
from omnidaemon_redis._settings import RedisSettings
from omnidaemon_redis._tag import Tag
from omnidaemon_redis._url import parse

__all__ = ["RedisEventBus"]

_IDLE_FOR_GOOD = 10_000_000_000
_READER_GONE = 3_600_000


class RedisEventBus:
    """An event bus on Redis 7 or Valkey, as a server, with sentinels, or as a cluster.

    Args:
        url: See the package's README; None is the server of this machine.
        namespace: Prefix of all keys.
        connect_timeout: Seconds for a connection to be made.
        lease: Seconds after which a delivery that nobody extends is delivered again.
        topic_max_bytes: Publishing gives ``BusFull`` when a topic holds so much that some group has
            not finished; None for no limit.
    """

    port_version = PORT_VERSION
    capabilities = BusCapabilities(
        name="redis_stream",
        durability="os",
        scope="network",
        ordered_by_key=True,
        history=True,
        history_by_time=True,
        trim=True,
        late_groups=True,
        restartable=True,
        max_event_bytes=16 << 20,
        redelivery="idle",
        notes={"exact_lag": "the server cannot tell for groups that begin in the middle of a topic"},
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "omni",
        connect_timeout: float = 5.0,
        lease: float = 15.0,
        topic_max_bytes: int | None = None,
    ) -> None:
        self.settings = RedisSettings(parse(url), namespace, connect_timeout, lease, topic_max_bytes)
        self._open: _Open | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return an unopened bus; ``environ`` may hold ``REDIS_URL``."""
        bus = cls()
        bus.settings = RedisSettings.of(settings)
        return bus

    def __repr__(self) -> str:
        return f"RedisEventBus({self.location!r}, namespace={self.settings.namespace!r})"

    @property
    def location(self) -> str:
        """The URL without secrets."""
        return self.settings.address.location

    @property
    def scope(self) -> Scope:
        """From where this server can be reached."""
        return self.settings.address.scope

    def twin(self, *, lease: float | None = None) -> Self:
        """Return an unopened bus of the same settings."""
        twin = type(self)()
        twin.settings = self.settings if lease is None else replace(self.settings, lease=lease)
        return twin

    async def open(self) -> None:
        """Connect, and check that the server can carry events."""
        if self._open is not None:
            return
        settings = self.settings
        reader = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        server = settings.server("omnidaemon-bus")
        await server.open()
        try:
            durability = await _inspect.check(server)
        except BaseException:
            await server.close()
            raise
        self.capabilities = replace(type(self).capabilities, durability=durability)
        self._open = _Open(
            server,
            Intake(server, settings.namespace, reader, settings.lease),
            Publisher(server, settings.namespace, self.capabilities.max_event_bytes, settings.topic_max_bytes),
        )

    async def close(self) -> None:
        """Disconnect; what this reader still holds is delivered to others after its lease."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.intake.close()
            await opened.publisher.close()
            await self._leave(opened)
            await opened.server.close()

    async def ping(self) -> None:
        """Ask the server whether it answers."""
        await self.opened("ping").server.one(Call(b"PING", b""))

    async def ensure(self, topic: str, groups: Mapping[Group, Start]) -> None:
        """See the port. Readers that went long ago and hold nothing are removed on the way."""
        opened = self.opened("ensure")
        stream = slot(self.settings.namespace, topic) + b"s"
        await opened.server.one(Call(b"SADD", home(self.settings.namespace) + b"t", (topic.encode(),)))
        calls = []
        for group, start in groups.items():
            position = _inspect.group_start(start)
            calls.append(Call(b"XGROUP", b"", (b"CREATE", stream, group_name(group), position, b"MKSTREAM")))
        await _inspect.make_groups(opened.server, stream, calls)
        tidy = [Call(script("bus"), stream, (b"tidy", stream, group_name(group), _READER_GONE)) for group in groups]
        if tidy:
            await opened.server.all(tidy)
        for group in groups:
            opened.intake.forget(group)

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:
        """See the port."""
        return await self.opened("publish").publisher.publish(batch, timeout)

    async def read(self, want: Mapping[Group, int], wait: float) -> list[Delivery]:
        """See the port."""
        opened = self.opened("read")
        lease = self.settings.lease
        wishes = {group: Wish(group, limit, lease, idle=lease) for group, limit in want.items() if limit > 0}
        intake = opened.intake
        deliveries = await intake.gather(wishes, wait, lambda part: self._read_call(intake, part), self._parse)
        now = asyncio.get_running_loop().time()
        for delivery in deliveries:
            if isinstance(delivery.tag, Tag):
                intake.held.setdefault(delivery.group, {})[delivery.tag.position] = now
        return deliveries

    def _read_call(self, intake: Intake, wishes: Sequence[Wish]) -> Call:
        args: list[Any] = [intake.reader]
        for wish in wishes:
            args += (slot(self.settings.namespace, wish.group.topic), wish.group.topic, group_name(wish.group))
            args += (wish.limit, int(wish.idle * 1000), len(wish.candidates), *wish.candidates)
        return Call(script("read"), args[1] + b"s", args)

    def _parse(self, reply: Any, wishes: Sequence[Wish]) -> Parsed[Delivery]:
        parsed = Parsed[Delivery]([])
        reader = self.opened("read").intake.reader
        for wish, (tail, flat) in zip(wishes, reply, strict=True):
            parsed.tails.append(tail)
            for position, event_id, body, key, after in zip(*[iter(flat)] * 5, strict=True):
                parsed.items.append(
                    Delivery(
                        wish.group,
                        text(event_id),
                        body,
                        position.decode(),
                        text(key[1:]) if key else None,
                        text(after[1:]) if after else None,
                        Tag(position, reader),
                    )
                )
        return parsed

    async def ack(self, batch: Sequence[Delivery]) -> None:
        """Finish deliveries for their group, whoever holds them now: the claim decided that already."""
        opened = self.opened("ack")
        calls = [
            Call(b"XACK", slot(self.settings.namespace, group.topic) + b"s", (group_name(group), *positions))
            for group, positions in self._positions(batch).items()
        ]
        self.release(batch)
        if calls:
            await opened.server.all(calls)

    async def extend(self, batch: Sequence[Delivery]) -> list[bool | None]:
        """See the port: what another reader holds by now is not touched."""
        answers = await self._hold(batch, b"")
        now = asyncio.get_running_loop().time()
        intake = self.opened("extend").intake
        for delivery, mine in zip(batch, answers, strict=True):
            held = intake.held.get(delivery.group)
            if held is not None and isinstance(delivery.tag, Tag):
                if mine:
                    held[delivery.tag.position] = now
                else:
                    held.pop(delivery.tag.position, None)
        return answers

    async def give_back(self, batch: Sequence[Delivery]) -> None:
        """See the port."""
        opened = self.opened("give_back")
        self.release(batch)
        await self._hold(batch, _IDLE_FOR_GOOD)
        opened.intake.waiting.returned = True
        key = home(self.settings.namespace) + b"w"
        topics = {delivery.group.topic for delivery in batch}
        calls = [Call(b"XADD", key, (b"MAXLEN", b"~", 1000, b"*", b"t", topic.encode())) for topic in topics]
        if calls:
            await opened.server.all(calls)

    def release(self, batch: Sequence[Delivery]) -> None:
        """Forget that this process holds these deliveries."""
        held = self.opened("release").intake.held
        for delivery in batch:
            positions = held.get(delivery.group)
            if positions is not None and isinstance(delivery.tag, Tag):
                positions.pop(delivery.tag.position, None)

    async def _hold(self, batch: Sequence[Delivery], idle: int | bytes) -> list[bool | None]:
        server = self.opened("hold").server
        places: dict[tuple[Group, str], list[int]] = {}
        answers: list[bool | None] = [False] * len(batch)
        for place, delivery in enumerate(batch):
            if isinstance(delivery.tag, Tag):
                places.setdefault((delivery.group, delivery.tag.reader), []).append(place)
        calls = []
        for (group, reader), found in places.items():
            stream = slot(self.settings.namespace, group.topic) + b"s"
            positions = [batch[place].position for place in found]
            calls.append(Call(script("bus"), stream, (b"hold", stream, group_name(group), reader, idle, *positions)))
        if calls:
            for found, reply in zip(places.values(), await server.all(calls), strict=True):
                for place, mine in zip(found, reply, strict=True):
                    answers[place] = bool(mine)
        return answers

    def history(self, topic: str, start: Start, end: Start) -> AsyncIterator[tuple[str, bytes]]:
        """See the port. Both ends are inclusive."""
        return _inspect.history(self.opened("history").server, self.settings.namespace, topic, start, end)

    async def trim(self, topic: str, before: float) -> int:
        """See the port."""
        prefix = slot(self.settings.namespace, topic)
        call = Call(script("bus"), prefix + b"s", (b"trim", prefix + b"s", prefix, int(before * 1000)))
        return int(await self.opened("trim").server.one(call))

    async def info(self, topic: str) -> TopicInfo:
        """See the port."""
        return await _inspect.info(self.opened("info").server, self.settings.namespace, topic)

    async def topics(self) -> list[str]:
        """See the port."""
        names = await self.opened("topics").server.one(Call(b"SMEMBERS", home(self.settings.namespace) + b"t"))
        return sorted(name.decode() for name in names)

    async def delete(self, what: Group | str) -> int:
        """See the port. No event goes with a group."""
        opened = self.opened("delete")
        if isinstance(what, Group):
            opened.intake.forget(what)
            return await _inspect.delete_group(opened.server, self.settings.namespace, what)
        return await _inspect.delete_topic(opened.server, self.settings.namespace, what)

    def opened(self, operation: str) -> _Open:
        """Return the open state.

        Raises:
            Closed: It is not open.
        """
        if self._open is None:
            raise Closed(f"RedisEventBus.{operation}: the bus is not open, call open() first")
        return self._open

    @staticmethod
    def _positions(batch: Sequence[Delivery]) -> dict[Group, list[bytes]]:
        groups: dict[Group, list[bytes]] = {}
        for delivery in batch:
            if isinstance(delivery.tag, Tag):
                groups.setdefault(delivery.group, []).append(delivery.tag.position)
        return groups

    async def _leave(self, opened: _Open) -> None:
        await _inspect.leave(opened.server, self.settings.namespace, opened.intake)


class _Open:
    """What an open bus has."""

    __slots__ = ("intake", "publisher", "server")

    def __init__(self, server: Any, intake: Intake, publisher: Publisher) -> None:
        self.server = server
        self.intake = intake
        self.publisher = publisher


if TYPE_CHECKING:
    _: type[EventBus] = RedisEventBus
