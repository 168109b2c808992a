"""How a reader learns of new events without asking each group again and again.

Topics that had traffic lately are waited for by a blocking XREAD on a connection of the reader's own;
the script that takes what has come is sent with it, behind it, so that the server runs it as soon as
it has woken the reader. All other topics share one more connection, which only says which have woken:
a thousand idle agents cost one blocked command.
In a cluster, where no command spans slots, publishers name the topics in a stream of the namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from omnidaemon.model.errors import BackendError
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import home, slot
from omnidaemon_redis._server import Call, Link, SingleServer, pack

__all__ = ["ClusterWaiting", "SingleWaiting", "Waiting"]

RECENT = 4
WATCH_SECONDS = 5.0
_RETRY = 0.5
_SLACK = 5.0


class Waiting:
    """What both ways share: topics that may have something, and a wake-up."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.woken: set[str] = set()
        self.returned = False
        self.event = asyncio.Event()
        self.wake_key = home(namespace) + b"w"
        self._wake_id = b"$"

    def note(self, reply: Any) -> None:
        """Read what a blocking XREAD answered: which topics have woken."""
        for key, entries in reply or ():
            if key == self.wake_key:
                self.returned = True
                for position, pairs in entries:
                    self._wake_id = position
                    self.woken.add(_topic_in(pairs))
            else:
                self.woken.add(self.topic_of(key))
        if self.woken:
            self.event.set()

    def topic_of(self, key: bytes) -> str:
        """Return the topic whose stream has that name."""
        return key[len(home(self.namespace)) : -2].decode()


def _topic_in(pairs: Any) -> str:
    value = pairs[b"t"] if isinstance(pairs, dict) else pairs[1]
    return bytes(value).decode()


class SingleWaiting(Waiting):
    """One server: XREAD over many streams."""

    def __init__(self, server: SingleServer, namespace: str) -> None:
        super().__init__(namespace)
        self._server = server
        self._link: Link | None = None
        self._link_id = b""
        self._recent: dict[str, None] = {}
        self._cold: dict[str, bytes] = {}
        self._watched: frozenset[str] = frozenset()
        self._watch_id = b""
        self._watcher: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the watcher; connections are closed with the server."""
        self.event.set()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        self._link = None

    def used(self, topic: str) -> None:
        """Note traffic on a topic: it is waited for in the quick way."""
        self._recent.pop(topic, None)
        self._recent[topic] = None
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def quick(self, topics: Iterable[str]) -> set[str]:
        """Return those of ``topics`` that are waited for together with the script."""
        names = set(topics)
        for topic in names if len(names) <= RECENT else ():
            self.used(topic)
        return names & self._recent.keys()

    async def wait(self, tails: Mapping[str, bytes], seconds: float, quick: set[str], call: Call | None) -> Any:
        """Wait for something behind ``tails``; return the script's reply, None if it was not run."""
        self.event.clear()
        cold = {topic: tail for topic, tail in tails.items() if topic not in quick}
        await self._watch(cold)
        if self.woken:
            return None
        if call is None:
            await self._slept(seconds)
            return None
        streams = {slot(self.namespace, topic) + b"s": tails[topic] for topic in quick}
        if not cold:
            streams[self.wake_key] = self._wake_id
        block = max(1, int(seconds * 1000))
        data = _xread(streams, block) + pack(call)
        link = await self._own_link()
        exchange = asyncio.ensure_future(link.exchange(data, 2, seconds + _SLACK))
        try:
            if cold:
                await self._race(exchange)
            replies = await exchange
        except BaseException:
            self._link = None
            exchange.cancel()
            await self._server.forget(link)
            raise
        woken, reply = replies
        if isinstance(woken, Exception) or isinstance(reply, Exception):
            # UNBLOCKED because a stream went, NOSCRIPT after a restart: ask again in the plain way.
            self.woken.update(quick)
            return None
        self.note(woken)
        self.woken -= quick
        return reply

    async def _race(self, exchange: asyncio.Future[Any]) -> None:
        """Wait for the exchange; end its blocking when a cold topic wakes."""
        event = asyncio.ensure_future(self.event.wait())
        try:
            await asyncio.wait({exchange, event}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            event.cancel()
        if not exchange.done():
            await self._server.run((Call(b"CLIENT", b"", (b"UNBLOCK", self._link_id)),))

    async def _own_link(self) -> Link:
        link = self._link
        if link is None or link.broken:
            link = await self._server.link()
            (self._link_id,) = await link.exchange(pack(Call(b"CLIENT", b"", (b"ID",))), 1, _SLACK)
            self._link = link
        return link

    async def _slept(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.event.wait()
        except TimeoutError:
            return

    async def _watch(self, cold: dict[str, bytes]) -> None:
        """Have the watcher wait for these topics."""
        self._cold = cold
        if not cold:
            return
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._run(), name="omnidaemon-redis-watch")
        elif self._watch_id and not cold.keys() <= self._watched:
            await self._server.run((Call(b"CLIENT", b"", (b"UNBLOCK", self._watch_id)),))

    async def _run(self) -> None:
        """Watch cold topics for as long as the bus is open; positions make sure that nothing is missed."""
        link = None
        while True:
            try:
                if link is None or link.broken:
                    link = await self._server.link()
                    (self._watch_id,) = await link.exchange(pack(Call(b"CLIENT", b"", (b"ID",))), 1, _SLACK)
                # A topic that has woken is not asked for again until it was read.
                cold = {topic: tail for topic, tail in self._cold.items() if topic not in self.woken}
                self._watched = frozenset(cold) | self.woken
                streams = {slot(self.namespace, topic) + b"s": tail for topic, tail in cold.items()}
                streams[self.wake_key] = self._wake_id
                (reply,) = await link.exchange(_xread(streams, int(WATCH_SECONDS * 1000)), 1, WATCH_SECONDS + _SLACK)
            except BackendError:
                reply = None
                await asyncio.sleep(_RETRY)
            if isinstance(reply, Exception):
                await asyncio.sleep(_RETRY)
            else:
                self.note(reply)


class ClusterWaiting(Waiting):
    """A cluster: publishers name topics in one stream; a slow poll finds what others put there."""

    def __init__(self, server: ClusterServer, namespace: str) -> None:
        super().__init__(namespace)
        self._server = server
        self._watcher: asyncio.Task[None] | None = None
        self._polled = 0.0

    async def close(self) -> None:
        """End the watcher."""
        self.event.set()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def used(self, topic: str) -> None:
        """Nothing to note: all topics are waited for alike."""

    def quick(self, topics: Iterable[str]) -> set[str]:  # noqa: ARG002 - one way for all
        """Return nothing: the script is asked for after the wake-up."""
        return set()

    async def wait(self, tails: Mapping[str, bytes], seconds: float, quick: set[str], call: Call | None) -> Any:  # noqa: ARG002
        """Wait for a topic of ``tails`` to be named."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._run(), name="omnidaemon-redis-watch")
        self.event.clear()
        now = asyncio.get_running_loop().time()
        if not self.woken:
            try:
                async with asyncio.timeout(seconds):
                    await self.event.wait()
            except TimeoutError:
                pass
        if now - self._polled > max(1.0, 0.005 * len(tails)):
            self._polled = now
            self.woken.update(tails)

    async def _run(self) -> None:
        while True:
            try:
                reply = await self._server.read_stream(self.wake_key, self._wake_id, WATCH_SECONDS, _SLACK)
            except BackendError:
                await asyncio.sleep(_RETRY)
                continue
            self.note(reply)


def _xread(streams: Mapping[bytes, bytes], block: int) -> bytes:
    args = (b"COUNT", 1, b"BLOCK", block, b"STREAMS", *streams, *streams.values())
    return pack(Call(b"XREAD", b"", args))
