"""A TCP proxy that breaks connections in the ways networks do.

It runs in a thread with a loop of its own, so that a blocked test or worker does not heal or delay anything, and its
methods may be called from anywhere::

    with Proxy(server.host, server.port) as proxy:
        client = Redis(port=proxy.port)
        proxy.swallow()          # requests are applied, replies are lost
        proxy.heal()
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    T = TypeVar("T")

_CHUNK = 65_536


@dataclass(eq=False)
class _Link:
    """One client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    replied: int = field(default=0)

    def cut(self) -> None:
        """Reset both sides: what was under way is lost."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Forwards ``127.0.0.1:<port>`` to a server until it is told otherwise.

    Every fault holds until `heal`, also for connections made later; `drop` alone is a single blow.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Describe a proxy before the server at ``host:port``; `start` opens it.

        With ``tls`` its clients speak TLS, which ends here: the server is spoken to in the clear.
        """
        self._target = (host, port)
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._swallowing = False
        self._holding = asyncio.Event()
        self._holding.set()
        self._delay = 0.0
        self._truncate_after: int | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        """Connections accepted so far."""

    def start(self) -> Self:
        """Open the port; it is known afterwards."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._thread.start()
        self._run(self._open())
        return self

    def close(self) -> None:
        """Cut everything and end the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> Self:
        """Open."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    def drop(self) -> int:
        """Reset all open connections, once; returns how many. New ones work."""
        return self._call(self._drop)

    def refuse(self) -> int:
        """Reset all connections and every new one, until `heal`; returns how many were open."""
        self._refusing = True
        return self.drop()

    def delay(self, seconds: float) -> None:
        """Hold every piece back for so long, in both directions, until `heal`."""
        self._delay = seconds

    def stall(self) -> None:
        """Pass nothing on in either direction until `heal`, which then sends it all: a network that hangs."""
        self._call(self._holding.clear)

    def swallow(self) -> None:
        """Requests reach the server, replies are lost, until `heal`; the connections stay open.

        `heal` cuts the connections that lost a reply: on a stream they could never be in step again.
        """
        self._swallowing = True

    def truncate(self, replied: int) -> None:
        """Cut each connection after ``replied`` more bytes of its replies, until `heal`. 0: before the first byte.

        The requests have reached the server by then, so the outcome is unknown to the client.
        """

        def begin() -> None:
            for link in self._links:
                link.replied = 0
            self._truncate_after = replied

        self._call(begin)

    def heal(self) -> None:
        """End every fault."""

        def end() -> None:
            self._refusing = self._swallowing = False
            self._delay = 0.0
            self._truncate_after = None
            self._holding.set()
            for link in self._lossy:
                link.cut()
            self._lossy.clear()

        self._call(end)

    async def _open(self) -> None:
        self._lossy: set[_Link] = set()
        self._front = await asyncio.start_server(self._accept, self.host, self.port, ssl=self._tls)
        self.port = self._front.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        # First accept no more, then let what was accepted become known, then close: a server that closes between the
        # two leaves a half-made transport behind, with its socket open (CPython 3.11).
        for listening in self._front.sockets:
            self._loop.remove_reader(listening.fileno())
        await _settle()
        self._front.close()
        self._drop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await _settle()  # an aborted transport closes its socket in a later turn

    def _drop(self) -> int:
        for link in self._links:
            link.cut()
        return len(self._links)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: a task that is cancelled before its first step would never know its connection.
        self.accepted += 1
        self._writers.add(writer)
        if self._refusing:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            writer.transport.abort()
            self._writers.discard(writer)

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._requests(reader, link)),
            asyncio.create_task(self._replies(server_reader, link)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            link.cut()
            self._links.discard(link)
            self._lossy.discard(link)

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._hold()
                link.server.write(data)
                await link.server.drain()

    async def _replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._hold()
                if self._swallowing:
                    self._lossy.add(link)
                    continue
                left = None if self._truncate_after is None else self._truncate_after - link.replied
                if left is not None and len(data) >= left:
                    link.client.write(data[:left])
                    await link.client.drain()
                    if left:
                        # A reset overtakes what the client has not read yet; an orderly end does not.
                        link.client.close()
                        await link.client.wait_closed()
                    return
                link.replied += len(data)
                link.client.write(data)
                await link.client.drain()

    async def _hold(self) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._holding.wait()

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._run(call())

    def _run(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
