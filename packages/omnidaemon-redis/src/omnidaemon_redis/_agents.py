"""Registered agents and their counts."""

from __future__ import annotations

import math
from typing import Any

from omnidaemon.ports.store import AgentRow, MetricRow
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import home, slot, text
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer
from omnidaemon_redis._settings import RedisSettings

__all__ = ["agents", "clear_metrics", "enroll", "metrics"]

_ROW_FIELDS = 3
_SLOTS = 200
Server = SingleServer | ClusterServer


async def enroll(server: Server, namespace: str, topic: str, agent: str, data: bytes) -> tuple[AgentRow, bool]:
    """See ``Store.enroll``."""
    # Listed before it exists: a name too many does no harm, one too few hides an agent.
    await server.one(Call(b"SADD", home(namespace) + b"a", (topic.encode(),)))
    prefix = slot(namespace, topic)
    epoch, at, deleted = await server.one(Call(script("enroll"), prefix + b"s", (prefix, agent, data)))
    return AgentRow(topic, agent, int(epoch), deleted=False, data=data, registered_at=int(at) / 1000), bool(deleted)


async def agents(server: Server, namespace: str) -> list[AgentRow]:
    """See ``Store.agents``."""
    names = await server.one(Call(b"SMEMBERS", home(namespace) + b"a"))
    topics = sorted(name.decode() for name in names)
    size = 1 if server.cluster else _SLOTS
    calls = []
    for at in range(0, len(topics), size):
        prefixes = [slot(namespace, topic) for topic in topics[at : at + size]]
        calls.append(Call(script("agents"), prefixes[0] + b"s", prefixes))
    replies = await server.all(calls) if calls else []
    rows: list[AgentRow] = []
    for topic, flat in zip(topics, (flat for reply in replies for flat in reply), strict=True):
        for name, packed in zip(flat[::2], flat[1::2], strict=True):
            epoch, deleted, at, data = packed.split(b"\0", _ROW_FIELDS)
            rows.append(AgentRow(topic, name.decode(), int(epoch), deleted == b"1", data, int(at) / 1000))
    return sorted(rows, key=lambda row: (row.topic, row.agent))


async def metrics(
    server: Server,
    settings: RedisSettings,
    topic: str | None,
    agent: str | None,
    since: float | None,
    until: float | None,
) -> list[MetricRow]:
    """See ``Store.metrics``."""
    first: Any = b""
    last: Any = b""
    if since is not None or until is not None:
        now = int(await server.one(Call(script("clock"), home(settings.namespace) + b"o"))) / 1000
        first, last = _minutes(settings, now)
        first = max(first, int((since or 0.0) // 60))
        last = last if until is None else min(last, math.ceil(until / 60))
    rows = []
    for row in await agents(server, settings.namespace):
        if topic in (None, row.topic) and agent in (None, row.agent):
            prefix = slot(settings.namespace, row.topic)
            flat = await server.one(Call(script("metrics"), prefix + b"s", (prefix, row.agent, first, last)))
            if flat:
                counts = {text(name): float(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
                rows.append(MetricRow(row.topic, row.agent, counts))
    return rows


async def clear_metrics(server: Server, settings: RedisSettings) -> int:
    """See ``Store.clear_metrics``."""
    now = int(await server.one(Call(script("clock"), home(settings.namespace) + b"o"))) / 1000
    first, last = _minutes(settings, now)
    gone = 0
    for row in await agents(server, settings.namespace):
        prefix = slot(settings.namespace, row.topic)
        gone += await server.one(Call(script("clear"), prefix + b"s", (prefix, row.agent, first, last)))
    return gone


def _minutes(settings: RedisSettings, now: float) -> tuple[int, int]:
    """Return the minutes that counts are kept of, the second one exclusive."""
    return int((now - settings.metrics_ttl) // 60) - 1, int(now // 60) + 1
