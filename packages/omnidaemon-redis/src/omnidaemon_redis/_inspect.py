"""What a server and its topics are like: checks, history, figures, deletion."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from omnidaemon.model.errors import BackendError, ConfigurationError
from omnidaemon.model.run import Group, Start
from omnidaemon.ports.event_bus import Figure, GroupInfo, TopicInfo
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._intake import Intake
from omnidaemon_redis._names import group_name, home, slot
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer

__all__ = ["check", "delete_group", "delete_topic", "group_start", "history", "info", "leave", "make_groups"]

_logger = logging.getLogger("omnidaemon.redis")
_POSITION = re.compile(r"(\d{1,18})(?:-(\d{1,20}))?\Z")
_PAGE_EVENTS = 200
_PAGE_BYTES = 4 << 20
_LAST = 2**64 - 1
Server = SingleServer | ClusterServer


async def check(server: Server) -> Literal["process", "os", "disk"]:
    """Return what survives on this server.

    Raises:
        ConfigurationError: Too old, of another kind than the URL says, or one that drops keys by itself.
    """
    found = await _facts(server)
    where = server.address.where
    version = str(found.get("redis_version", "0"))
    if int(version.split(".", 1)[0]) < 7:
        raise ConfigurationError(f"Redis at {where} is version {version}: version 7.0 or newer is needed")
    if found.get("redis_mode") == "cluster" and not server.cluster:
        raise ConfigurationError(f"Redis at {where} is part of a cluster: use redis+cluster:// in REDIS_URL")
    policy = found.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis at {where} has maxmemory-policy {policy}: it would drop events and records when memory is short;"
            " set it to noeviction (redis-cli CONFIG SET maxmemory-policy noeviction, and in its redis.conf)"
        )
    if str(found.get("aof_enabled")) != "1":
        _logger.warning("Redis at %s keeps no append-only file: a crash of it loses events; set appendonly yes", where)
        return "process"
    reply = (await server.run([Call(b"CONFIG", b"", (b"GET", b"appendfsync"))]))[0]
    return "disk" if not isinstance(reply, Exception) and b"always" in _flat(reply) else "os"


async def _facts(server: Server) -> dict[str, str]:
    facts: dict[str, str] = {}
    for reply in await server.all([Call(b"INFO", b"", (part,)) for part in (b"server", b"memory", b"persistence")]):
        if isinstance(reply, dict):
            facts.update({str(name): str(value) for name, value in reply.items()})
            continue
        for line in reply.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            facts[name] = value
    return facts


def _flat(reply: Any) -> list[bytes]:
    items = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else reply
    return [item if isinstance(item, bytes) else str(item).encode() for item in items]


def _number(position: str) -> tuple[int, int]:
    match = _POSITION.match(position)
    if match is None:
        raise ConfigurationError(f"{position!r} is no position of a Redis stream: use one such as '1700000000000-0'")
    return int(match[1]), int(match[2] or 0)


def group_start(start: Start) -> str:
    """Return the position after which a group begins."""
    if start.kind == "beginning":
        return "0"
    if start.kind == "now":
        return "$"
    if start.kind == "time":
        first, second = max(0, int(start.time * 1000)), 0
    else:
        first, second = _number(start.position)
    if second:
        return f"{first}-{second - 1}"
    return f"{first - 1}-{_LAST}" if first else "0"


async def make_groups(server: Server, stream: bytes, calls: Sequence[Call]) -> None:
    """Make groups, unless they exist."""
    if server.cluster:
        calls = [Call(b"XGROUP CREATE", stream, call.args[2:]) for call in calls]
    if not calls:
        return
    for reply in await server.run(calls):
        if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
            raise BackendError(f"Redis at {server.address.where} cannot make a group: {reply}") from reply


async def history(
    server: Server, namespace: str, topic: str, start: Start, end: Start
) -> AsyncIterator[tuple[str, bytes]]:
    """Iterate over what a topic retains."""
    stream = slot(namespace, topic) + b"s"
    first = {"beginning": "-", "now": "+"}.get(start.kind) or _bound(start, first=True)
    if end.kind == "beginning":
        return
    if end.kind == "now":
        newest = await server.one(Call(script("info"), stream, (stream, stream[:-1])))
        if not newest[0]:
            return
        last = newest[3].decode()
        if start.kind == "now":
            return
    else:
        last = _bound(end, first=False)
    what = script("history")
    while True:
        flat = await server.one(Call(what, stream, (stream, topic, first, last, _PAGE_EVENTS, _PAGE_BYTES)))
        for position, body in zip(flat[::2], flat[1::2], strict=True):
            yield position.decode(), body
        if not flat:
            return
        first = f"({flat[-2].decode()}"


def _bound(at: Start, *, first: bool) -> str:
    if at.kind == "time":
        moment = int(at.time * 1000)
        return f"{moment + (first and moment < at.time * 1000)}-{0 if first else _LAST}"
    number = _number(at.position)
    return f"{number[0]}-{number[1]}"


async def info(server: Server, namespace: str, topic: str) -> TopicInfo:
    """Describe a topic and its groups."""
    stream = slot(namespace, topic) + b"s"
    reply = await server.one(Call(script("info"), stream, (stream, stream[:-1])))
    if len(reply) == 1:
        return TopicInfo(topic, length=Figure(0), bytes=Figure(0))
    length, size, first, last, *rest = reply
    groups = []
    for name, lag, exact, pending, position, oldest, readers in rest:
        agent, _, epoch = name.decode().rpartition(":")
        if not epoch.isdecimal():
            continue  # somebody else's group on our stream
        groups.append(
            GroupInfo(
                Group(topic, agent, int(epoch)),
                Figure(lag, "exact" if exact else "approximate"),
                Figure(pending),
                int(oldest.partition(b"-")[0]) / 1000 if oldest else None,
                position.decode(),
                sorted(reader.decode() for reader in readers),
            )
        )
    groups.sort(key=lambda found: found.group)
    return TopicInfo(topic, Figure(length), Figure(size, "approximate"), first.decode(), last.decode(), groups)


async def delete_group(server: Server, namespace: str, group: Group) -> int:
    """Remove a group; no event goes with it."""
    stream = slot(namespace, group.topic) + b"s"
    await server.one(Call(script("bus"), stream, (b"drop", stream, group_name(group))))
    return 0


async def delete_topic(server: Server, namespace: str, topic: str) -> int:
    """Remove a topic with its groups and events; return how many events went."""
    prefix = slot(namespace, topic)
    gone = int(await server.one(Call(script("bus"), prefix + b"s", (b"delete", prefix + b"s", prefix))))
    await server.one(Call(b"SREM", home(namespace) + b"t", (topic.encode(),)))
    return gone


async def leave(server: Server, namespace: str, intake: Intake) -> None:
    """Take this reader's name out of the groups in which it holds nothing."""
    calls: list[Call] = []
    for group in intake.known():
        stream = slot(namespace, group.topic) + b"s"
        name = group_name(group)
        calls += [Call(script("bus"), stream, (b"leave", stream, name, reader)) for reader in intake.readers]
    try:
        if calls:
            await server.run(calls)
    except BackendError:
        return  # a reader that holds nothing is removed later, by whoever makes the group's next start
