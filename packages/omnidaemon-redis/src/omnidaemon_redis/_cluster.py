"""A cluster: each call goes to the node that owns its slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions as driver
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from omnidaemon.model.errors import BackendUnavailable, Closed
from omnidaemon_redis._errors import REPLY_LOST, translate
from omnidaemon_redis._server import Call, ReplyLost
from omnidaemon_redis._url import Address

__all__ = ["ClusterServer"]


class ClusterServer:
    """The same as :class:`SingleServer` over the driver's cluster client."""

    cluster = True

    def __init__(self, address: Address, connect_timeout: float, timeout: float, name: str) -> None:
        self.address = address
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._name = name
        self._client: RedisCluster | None = None

    async def open(self) -> None:
        """Learn the cluster's layout."""
        if self._client is not None:
            return
        address = self.address
        options: dict[str, Any] = dict(address.options)
        if address.tls:
            options["ssl"] = True
        client = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            socket_connect_timeout=self._connect_timeout,
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
            protocol=2,
            client_name=self._name,
            **options,
        )
        try:
            async with asyncio.timeout(self._connect_timeout):
                await client.initialize()
        except (driver.RedisError, OSError, TimeoutError) as error:
            await client.aclose()
            cause = error.__cause__ if isinstance(error.__cause__, driver.RedisError) else error
            raise translate(cause, address.where) from error
        except BaseException:
            await client.aclose()
            raise
        self._client = client

    async def close(self) -> None:
        """Close all connections; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def run(self, calls: Sequence[Call], timeout: float | None = None) -> list[Any]:
        """Run calls, each on its node and all at the same time; error replies are returned as they are."""
        if self._client is None:
            raise Closed("the connection to Redis is closed, call open() first")
        if len(calls) == 1:
            return [await self._run(self._client, calls[0], timeout)]
        return await asyncio.gather(*(self._run(self._client, call, timeout) for call in calls))

    async def one(self, call: Call, timeout: float | None = None) -> Any:
        """Run one call; raises our error for the server's error reply."""
        reply = (await self.run((call,), timeout))[0]
        if isinstance(reply, Exception):
            raise translate(reply, self.address.where) from reply
        return reply

    async def all(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls; raises our error for the first error reply."""
        replies = await self.run(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply, self.address.where) from reply
        return replies

    async def read_stream(self, key: bytes, after: bytes, wait: float, slack: float) -> Any:
        """Block on one stream, on the node that has it."""
        if self._client is None:
            raise Closed("the connection to Redis is closed, call open() first")
        args = ("COUNT", 1000, "BLOCK", int(wait * 1000), "STREAMS", key, after)
        try:
            node = self._client.get_node_from_key(key.decode())
            async with asyncio.timeout(wait + slack):
                return await self._client.execute_command("XREAD", *args, target_nodes=node)
        except (driver.RedisError, OSError, TimeoutError) as error:
            raise translate(error, self.address.where) from error

    async def _run(self, client: RedisCluster, call: Call, timeout: float | None) -> Any:
        timeout = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._send(client, call)
        except TimeoutError as error:
            raise ReplyLost(f"Redis at {self.address.where} has not answered for {timeout:g} s") from error
        except REPLY_LOST as error:
            raise ReplyLost(str(translate(error, self.address.where))) from error
        except driver.RedisClusterException as error:
            raise BackendUnavailable(f"the Redis cluster at {self.address.where}: {error}; wait, or mend it") from error

    @staticmethod
    async def _send(client: RedisCluster, call: Call) -> Any:
        what, key, args = call
        try:
            if isinstance(what, bytes):
                if key:
                    return await client.execute_command(what.decode(), key, *args)
                return await client.execute_command(what.decode(), *args, target_nodes=client.get_random_node())
            try:
                return await client.execute_command("EVALSHA", what.sha, 1, key, *args)
            except driver.NoScriptError:
                return await client.execute_command("EVAL", what.source, 1, key, *args)
        except driver.ResponseError as error:
            return error
