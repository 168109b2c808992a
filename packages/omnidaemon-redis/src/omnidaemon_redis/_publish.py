"""Appending events: what is sent, and what became of it (P1, P8)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from omnidaemon.model.errors import (
    BackendError,
    BusFull,
    NotAttempted,
    PayloadTooLarge,
    PublishUncertain,
)
from omnidaemon.model.run import Outgoing, Receipt
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._errors import translate
from omnidaemon_redis._names import home, optional, raw, slot
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, ReplyLost, SingleServer

__all__ = ["Publisher"]

_FULL = b""
_SKIPPED = b"-"
# One call holds the server for some milliseconds at most.
_MOST_EVENTS = 500
_MOST_BYTES = 4 << 20


class Publisher:
    """The publishing side of one open bus."""

    def __init__(
        self, server: SingleServer | ClusterServer, namespace: str, max_event_bytes: int, topic_max_bytes: int | None
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._max_event = max_event_bytes
        self._max_topic = topic_max_bytes
        self._wakes: set[str] = set()
        self._waker: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Wait for the last wake-up."""
        if self._waker is not None:
            await asyncio.gather(self._waker, return_exceptions=True)

    async def publish(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:
        """See ``EventBus.publish``."""
        if len(batch) == 1:
            event = batch[0]
            if event.key is None and self._max_topic is None and len(event.body) <= self._max_event:
                return [await self._single(event, timeout)]
        return await self._many(batch, timeout)

    async def _single(self, event: Outgoing, timeout: float) -> Receipt | Exception:
        """Append one event by a plain command, unless its stream has to be made first."""
        stream = slot(self._namespace, event.topic) + b"s"
        call = Call(b"XADD", stream, (b"NOMKSTREAM", b"*", b"i", raw(event.id), b"b", event.body))
        try:
            reply = (await self._server.run((call,), timeout))[0]
        except BackendError as error:
            return _outcome(error)
        if isinstance(reply, Exception):
            return self._refused(reply)
        if reply is None:
            return (await self._many([event], timeout))[0]
        self._wake(event.topic)
        return Receipt(bytes(reply).decode())

    async def _many(self, batch: Sequence[Outgoing], timeout: float) -> list[Receipt | Exception]:
        outcomes: list[Receipt | Exception | None] = [None] * len(batch)
        topics: dict[str, list[int]] = {}
        for place, event in enumerate(batch):
            topics.setdefault(event.topic, []).append(place)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        await asyncio.gather(
            *(self._topic(topic, places, batch, outcomes, deadline) for topic, places in topics.items())
        )
        return [outcome for outcome in outcomes if outcome is not None]

    async def _topic(
        self,
        topic: str,
        places: Sequence[int],
        batch: Sequence[Outgoing],
        outcomes: list[Receipt | Exception | None],
        deadline: float,
    ) -> None:
        failed: set[str] = set()
        for part in self._parts(places, batch, outcomes, failed):
            events = [batch[place] for place in part]
            for place, outcome in zip(part, await self._append(topic, events, deadline), strict=True):
                outcomes[place] = outcome
                key = batch[place].key
                if key is not None and isinstance(outcome, Exception):
                    failed.add(key)
        self._wake(topic)

    def _parts(
        self,
        places: Sequence[int],
        batch: Sequence[Outgoing],
        outcomes: list[Receipt | Exception | None],
        failed: set[str],
    ) -> Any:
        """Yield places for one script each; what must not be sent gets its outcome here."""
        part: list[int] = []
        size = 0
        for place in places:
            event = batch[place]
            if len(event.body) > self._max_event:
                text = f"event {event.id} has {len(event.body)} bytes, the bus takes {self._max_event}"
                outcomes[place] = PayloadTooLarge(text)
                if event.key is not None:
                    failed.add(event.key)
                continue
            if event.key in failed and event.key is not None:
                outcomes[place] = _not_attempted(event)
                continue
            if part and (len(part) == _MOST_EVENTS or size + len(event.body) > _MOST_BYTES):
                yield part
                part, size = [], 0
                if event.key is not None and event.key in failed:
                    outcomes[place] = _not_attempted(event)
                    continue
            part.append(place)
            size += len(event.body)
        if part:
            yield part

    async def _append(self, topic: str, events: Sequence[Outgoing], deadline: float) -> list[Receipt | Exception]:
        prefix = slot(self._namespace, topic)
        args: list[Any] = [prefix, b"" if self._max_topic is None else self._max_topic, b"0"]
        for event in events:
            args += (raw(event.id), event.body, optional(event.key))
        call = Call(script("publish"), prefix + b"s", args)
        clock = asyncio.get_running_loop().time
        try:
            reply = (await self._server.run((call,), max(0.001, deadline - clock())))[0]
            if reply is None:
                # The name goes in first: a topic that nobody lists would never be trimmed.
                await self._server.one(Call(b"SADD", home(self._namespace) + b"t", (topic.encode(),)))
                args[2] = b"1"
                reply = (await self._server.run((call,), max(0.001, deadline - clock())))[0]
        except BackendError as error:
            return [_outcome(error)] * len(events)
        if isinstance(reply, Exception):
            return [self._refused(reply)] * len(events)
        return [self._receipt(topic, event, position) for event, position in zip(events, reply, strict=True)]

    def _receipt(self, topic: str, event: Outgoing, position: bytes) -> Receipt | Exception:
        if position == _FULL:
            return BusFull(
                f"topic {topic} holds {self._max_topic} bytes that some group has not finished (topic_max_bytes):"
                " start workers for its agents, or delete the agents that no longer run"
            )
        return _not_attempted(event) if position == _SKIPPED else Receipt(position.decode())

    def _refused(self, error: Exception) -> Exception:
        return translate(error, self._server.address.where)

    def _wake(self, topic: str) -> None:
        """In a cluster, name the topic to the readers; soon, and once for many events."""
        if not self._server.cluster:
            return
        self._wakes.add(topic)
        if self._waker is None or self._waker.done():
            self._waker = asyncio.get_running_loop().create_task(self._send_wakes(), name="omnidaemon-redis-wake")

    async def _send_wakes(self) -> None:
        while self._wakes:
            topics, self._wakes = self._wakes, set()
            key = home(self._namespace) + b"w"
            calls = [Call(b"XADD", key, (b"MAXLEN", b"~", 1000, b"*", b"t", topic.encode())) for topic in topics]
            try:
                await self._server.run(calls)
            except BackendError:
                return  # readers look for themselves now and then


def _outcome(error: BackendError) -> Exception:
    if isinstance(error, ReplyLost):
        uncertain = PublishUncertain(f"sent, and not confirmed: {error}; publishing it again with the same id is safe")
        uncertain.__cause__ = error
        return uncertain
    return error


def _not_attempted(event: Outgoing) -> NotAttempted:
    return NotAttempted(f"event {event.id}: an earlier event of key {event.key!r} failed, publish both again")
