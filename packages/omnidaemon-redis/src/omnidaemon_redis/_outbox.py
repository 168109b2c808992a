"""Follow-ups and delayed events: rows in the slot of the topic that wrote them, found through a list of topics."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from omnidaemon.model.run import Deferred, Outgoing
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import home, optional, raw, slot, text
from omnidaemon_redis._runs import ms
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer

__all__ = ["Outbox"]

_REMEMBERED = 100_000


class Outbox:
    """The outbox of a store."""

    def __init__(self, server: SingleServer | ClusterServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._home = home(namespace)
        # In whose slot a row lies that this store has written or leased.
        self._homes: dict[str, str] = {}
        self._announced: set[str] = set()

    async def announce(self, topics: Collection[str]) -> None:
        """List topics whose outbox is about to get rows. They stay listed: a slip would lose a row."""
        names = [topic.encode() for topic in topics if topic not in self._announced]
        if names:
            await self._server.one(Call(b"SADD", self._home + b"o", names))
            self._announced.update(topics)

    def remember(self, topic: str, rows: Iterable[Outgoing]) -> None:
        """Note in whose slot rows lie."""
        homes = self._homes
        if len(homes) > _REMEMBERED:
            homes.clear()
        for row in rows:
            homes[row.id] = topic

    async def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """See ``Store.defer``."""
        topics: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            topics.setdefault(row.event.topic, []).append(place)
        await self.announce(topics)
        calls = []
        for topic, places in topics.items():
            prefix = slot(self._namespace, topic)
            args: list[Any] = [prefix, topic]
            for place in places:
                row = rows[place]
                args += (raw(row.event.id), optional(row.event.key), row.event.body, ms(row.delay))
                args.append(b"" if row.deliver_at is None else math.ceil(row.deliver_at * 1000 - 1e-6))
            calls.append(Call(script("defer"), prefix + b"s", args))
        answers = [False] * len(rows)
        for places, reply in zip(topics.values(), await self._server.all(calls) if calls else [], strict=True):
            for place, inserted in zip(places, reply, strict=True):
                answers[place] = bool(inserted)
        return answers

    async def lease(self, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:
        """See ``Store.outbox``."""
        names = await self._server.one(Call(b"SMEMBERS", self._home + b"o"))
        topics = sorted(name.decode() for name in names)
        rows: list[Outgoing] = []
        next_in: float | None = None
        size = 1 if self._server.cluster else 100
        for at in range(0, len(topics), size):
            part = topics[at : at + size]
            prefixes = [slot(self._namespace, topic) for topic in part]
            args = (max(0, limit - len(rows)), ms(lease), *prefixes)
            found, soonest = await self._server.one(Call(script("outbox"), prefixes[0] + b"s", args))
            for place, topic, event_id, key, body in found:
                row = Outgoing(topic.decode(), text(event_id), body, text(key[1:]) if key else None)
                rows.append(row)
                self.remember(part[place], (row,))
            if soonest:
                wait = max(0.0, int(soonest) / 1000)
                next_in = wait if next_in is None else min(next_in, wait)
        return rows, next_in

    async def sent(self, rows: Sequence[Outgoing]) -> None:
        """See ``Store.sent``."""
        homes: dict[str, list[bytes]] = {}
        lost: list[bytes] = []
        for row in rows:
            topic = self._homes.pop(row.id, None)
            (lost if topic is None else homes.setdefault(topic, [])).append(raw(row.id))
        if lost:
            for name in await self._server.one(Call(b"SMEMBERS", self._home + b"o")):
                homes.setdefault(name.decode(), []).extend(lost)
        calls = []
        for topic, ids in homes.items():
            prefix = slot(self._namespace, topic)
            calls.append(Call(script("sent"), prefix + b"s", (len(ids), *ids, prefix)))
        if calls:
            await self._server.all(calls)
