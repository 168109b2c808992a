"""Small values with versions: flags, heartbeats, sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnidaemon.ports.store import Page, Put, Versioned
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import home, raw, text
from omnidaemon_redis._runs import ms
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer

__all__ = ["Values"]


class Values:
    """The ``get``, ``put`` and ``scan`` of a store."""

    def __init__(self, server: SingleServer | ClusterServer, namespace: str) -> None:
        self._server = server
        self._home = home(namespace)

    async def get(self, ns: str, keys: Sequence[str]) -> list[Versioned | None]:
        """See ``Store.get``."""
        if not keys:
            return []
        reply = await self._call(b"get", ns, [raw(key) for key in keys])
        return [
            None if found is None else Versioned(key, found[1], int(found[0]))
            for key, found in zip(keys, reply, strict=True)
        ]

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """See ``Store.put``."""
        args: list[Any] = []
        for item in items:
            args += (raw(item.key), int(item.value is not None), item.value or b"")
            args.append(b"" if item.ttl is None else ms(item.ttl))
            args.append(b"" if item.expect is None else item.expect)
        return [bool(written) for written in await self._call(b"put", ns, args)]

    async def scan(self, ns: str, cursor: str | None, limit: int) -> Page[Versioned]:
        """See ``Store.scan``."""
        after = b"" if cursor is None else b"=" + raw(cursor)
        reply = await self._call(b"scan", ns, [after, limit + 1])
        items = [Versioned(text(name), value, int(version)) for name, version, value in reply[:limit]]
        return Page(items, items[-1].key if len(reply) > limit else None)

    async def _call(self, what: bytes, ns: str, args: Sequence[Any]) -> Any:
        # The name space may be any text: the namespace's braces, which end first, choose the slot.
        stem = self._home + b"v:" + raw(ns) + b":"
        return await self._server.one(Call(script("values"), stem, (what, stem, *args)))
