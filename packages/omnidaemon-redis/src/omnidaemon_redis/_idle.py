"""Which of many groups keep a run at all: a thousand idle agents cost one cheap command."""

from __future__ import annotations

from collections.abc import Sequence

from omnidaemon.model.run import Group
from omnidaemon_redis._names import slot
from omnidaemon_redis._server import Call, SingleServer, pack

__all__ = ["IdleGroups"]

_CHUNK = 50


class IdleGroups:
    """Asks for the hashes of live runs (``lua/runs.lua``), which are there only while they hold something."""

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._packed = b""

    async def busy(
        self, server: SingleServer, namespace: str, groups: Sequence[Group]
    ) -> list[Group]:
        """Return those of ``groups`` that may have something due."""
        if groups != self._groups:
            keys = [slot(namespace, group.topic) + b"w:" + group.agent.encode() for group in groups]
            calls = [Call(b"EXISTS", keys[at], keys[at + 1 : at + _CHUNK]) for at in range(0, len(keys), _CHUNK)]
            # Packed once: the same groups are asked for again and again.
            self._groups, self._packed = list(groups), b"".join(map(pack, calls))
        count = -(-len(groups) // _CHUNK)
        found = await server.packed(self._packed, count)
        return [group for at, some in enumerate(found) if some for group in groups[at * _CHUNK : (at + 1) * _CHUNK]]
