"""One server, or the master that sentinels name: connections, scripts, and what failed calls mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis import exceptions as driver
from redis.asyncio import Connection, ConnectionPool, Sentinel, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from omnidaemon.model.errors import BackendUnavailable, Closed
from omnidaemon_redis._errors import REPLY_LOST, translate
from omnidaemon_redis._scripts import Script
from omnidaemon_redis._url import Address

__all__ = ["Call", "Link", "ReplyLost", "SingleServer", "pack"]

_MAX_LINKS = 6


class Call(NamedTuple):
    """A command or script of one slot; ``key`` names the slot."""

    what: Script | bytes
    key: bytes
    args: Sequence[Any] = ()


class ReplyLost(BackendUnavailable):
    """The connection broke after the command had been sent: it may have been carried out."""


def pack(call: Call, *, with_source: bool = False) -> bytes:
    """Return the call as it is sent. A plain command has its key first, a script behind its sha."""
    what, key, args = call
    parts: tuple[Any, ...]
    if isinstance(what, bytes):
        parts = (what, key, *args) if key else (what, *args)
    elif with_source:
        parts = (b"EVAL", what.source, 1, key, *args)
    else:
        parts = (b"EVALSHA", what.sha, 1, key, *args)
    packed: bytes = hiredis.pack_command(parts)
    return packed


class Link:
    """A connection on which one exchange runs at a time."""

    __slots__ = ("_connection", "_where")

    def __init__(self, connection: Connection, where: str) -> None:
        self._connection = connection
        self._where = where

    @property
    def broken(self) -> bool:
        """Whether it must be thrown away."""
        return not self._connection.is_connected

    async def connect(self, timeout: float) -> None:
        """Connect and greet; raises our own errors."""
        try:
            async with asyncio.timeout(timeout):
                await self._connection.connect()  # type: ignore[no-untyped-call] # the driver's
        except TimeoutError as error:
            await self._drop()
            text = f"Redis at {self._where} has not answered within {timeout:g} s; check that it runs and REDIS_URL"
            raise BackendUnavailable(text) from error
        except (driver.RedisError, OSError) as error:
            await self._drop()
            raise translate(error, self._where) from error
        except BaseException:
            await self._drop()
            raise

    async def exchange(self, data: bytes, count: int, timeout: float) -> list[Any]:
        """Send packed commands and return their ``count`` replies, errors among them as they are.

        Raises:
            ReplyLost: The connection broke, or nothing came for ``timeout`` seconds.
        """
        connection, replies = self._connection, []
        try:
            async with asyncio.timeout(timeout):
                await connection.send_packed_command(data, check_health=False)
                for _ in range(count):
                    try:
                        replies.append(await connection.read_response(disable_decoding=True))
                    except driver.ResponseError as error:
                        replies.append(error)
        except TimeoutError as error:
            await self._drop()
            text = f"Redis at {self._where} has not answered for {timeout:g} s; it hangs, or the network does"
            raise ReplyLost(text) from error
        except REPLY_LOST as error:
            await self._drop()
            raise ReplyLost(str(translate(error, self._where))) from error
        except driver.RedisError as error:
            await self._drop()
            raise translate(error, self._where) from error
        except BaseException:
            # Cancelled with replies on their way: nobody else may read them.
            await self._drop()
            raise
        return replies

    async def close(self) -> None:
        """Disconnect, and wait until that is done: TLS says goodbye. Idempotent."""
        await self._drop(nowait=False)

    async def _drop(self, *, nowait: bool = True) -> None:
        try:
            await self._connection.disconnect(nowait=nowait)
        except (driver.RedisError, OSError, RuntimeError):
            return  # it is as gone as can be


class SingleServer:
    """Connections to one server. Belongs to the event loop that opened it.

    Args:
        address: Where it is.
        connect_timeout: Seconds for a connection to be made.
        timeout: Seconds for an answer.
        name: How this client is called in the server's lists.
    """

    cluster = False

    def __init__(self, address: Address, connect_timeout: float, timeout: float, name: str) -> None:
        self.address = address
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._name = name
        self._pool: ConnectionPool | None = None
        self._sentinel: Sentinel | None = None
        self._free: list[Link] = []
        self._room = asyncio.Semaphore(_MAX_LINKS)
        self._links: set[Link] = set()

    async def open(self) -> None:
        """Connect once, so that wrong credentials and addresses show at once."""
        if self._pool is None:
            self._pool = self._make_pool()
            self._room = asyncio.Semaphore(_MAX_LINKS)
        try:
            link = await self.link()
        except BaseException:
            await self.close()
            raise
        self._free.append(link)

    async def close(self) -> None:
        """Close all connections; idempotent."""
        self._pool = None
        links, self._links, self._free = self._links, set(), []
        await asyncio.gather(*(link.close() for link in links))
        if self._sentinel is not None:
            for client in self._sentinel.sentinels:
                await client.aclose()
            self._sentinel = None

    async def link(self) -> Link:
        """Return a new connection of the caller's own; closed with the server."""
        if self._pool is None:
            raise Closed("the connection to Redis is closed, call open() first")
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call] # the driver's
        link = Link(connection, self.address.where)
        await link.connect(self._connect_timeout)
        self._links.add(link)
        return link

    async def forget(self, link: Link) -> None:
        """Close a connection that :meth:`link` made."""
        self._links.discard(link)
        await link.close()

    async def run(self, calls: Sequence[Call], timeout: float | None = None) -> list[Any]:
        """Run calls in order, in one round trip; answers and the server's error replies as they are."""
        data = pack(calls[0]) if len(calls) == 1 else b"".join(map(pack, calls))
        return await self._exchange(data, calls, len(calls), timeout)

    async def packed(self, data: bytes, count: int) -> list[Any]:
        """Run plain commands that are packed already; raises our error for the first error reply."""
        return self._checked(await self._exchange(data, (), count, None))

    async def _exchange(self, data: bytes, calls: Sequence[Call], count: int, timeout: float | None) -> list[Any]:
        if self._pool is None:
            raise Closed("the connection to Redis is closed, call open() first")
        timeout = self.timeout if timeout is None else timeout
        async with self._room:
            link = self._free.pop() if self._free else await self.link()
            try:
                replies = await link.exchange(data, count, timeout)
                for place, reply in enumerate(replies):
                    if isinstance(reply, driver.NoScriptError) and calls:
                        source = pack(calls[place], with_source=True)
                        replies[place] = (await link.exchange(source, 1, timeout))[0]
            finally:
                if link.broken:
                    self._links.discard(link)
                    await self._drop_free()
                elif self._pool is not None:
                    self._free.append(link)
        return replies

    async def _drop_free(self) -> None:
        """Throw away what waits unused: it went to the same server, which has gone."""
        free, self._free = self._free, []
        for link in free:
            await self.forget(link)

    async def one(self, call: Call, timeout: float | None = None) -> Any:
        """Run one call; raises our error for the server's error reply."""
        reply = (await self.run((call,), timeout))[0]
        if isinstance(reply, Exception):
            raise translate(reply, self.address.where) from reply
        return reply

    async def all(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls; raises our error for the first error reply."""
        return self._checked(await self.run(calls))

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply, self.address.where) from reply
        return replies

    def _make_pool(self) -> ConnectionPool:
        address = self.address
        options: dict[str, Any] = {
            "socket_connect_timeout": self._connect_timeout,
            # Answers are waited for with time-outs of our own, which know how long a read may block.
            "socket_timeout": None,
            # The driver must not send anything twice: it cannot know what is safe to repeat.
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,
            "client_name": self._name,
            **address.options,
        }
        if address.path:
            pool = ConnectionPool(
                connection_class=UnixDomainSocketConnection, path=address.path, db=address.db, **options
            )
        elif address.kind == "sentinel":
            tls = {name: value for name, value in address.options.items() if name.startswith("ssl")}
            own: dict[str, Any] = {
                "socket_connect_timeout": self._connect_timeout,
                "socket_timeout": self._connect_timeout,
            }
            own |= {**address.sentinel_options, **tls, "retry": Retry(NoBackoff(), 0), "protocol": 2}
            if address.tls:
                own["ssl"] = options["ssl"] = True
            self._sentinel = Sentinel(address.hosts, sentinel_kwargs=own)  # type: ignore[no-untyped-call] # the driver's
            pool = SentinelConnectionPool(  # type: ignore[no-untyped-call] # the driver's
                address.service, self._sentinel, is_master=True, db=address.db, **options
            )
        else:
            host, port = address.hosts[0]
            kind = SSLConnection if address.tls else Connection
            pool = ConnectionPool(connection_class=kind, host=host, port=port, db=address.db, **options)
        return pool
