"""Reading for many groups: what is there, what lies idle, and waiting for more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Group
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import group_name, slot
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer
from omnidaemon_redis._waiting import ClusterWaiting, SingleWaiting, Waiting

__all__ = ["Intake", "Wish"]

T = TypeVar("T")
CHUNK = 50
# Idle entries looked at in one go; more than a reader ever holds.
CANDIDATES = 1000
_SWEEP_CHUNK = 200
_SWEEP_MOST = 2.0
_SWEEP_LEAST = 0.02


@dataclass(slots=True)
class Wish:
    """What is wanted for one group.

    Attributes:
        limit: At most so many.
        lease: Seconds, of the claims and of what may lie idle.
        idle: Seconds that a candidate must have lain idle.
        candidates: Positions to look at for a redelivery.
    """

    group: Group
    limit: int
    lease: float
    takeover: bool = True
    idle: float = 0.0
    candidates: Sequence[bytes] = ()


# Builds the call of one script for wishes of one slot (of all slots on a single server).
Build = Callable[[Sequence[Wish]], Call]


@dataclass(slots=True)
class Parsed(Generic[T]):
    """A script's answer: items, and for each wish up to where the group has been read.

    A tail is b"" when there may be more, None when there is no such group.
    """

    items: list[T]
    tails: list[bytes | None] = field(default_factory=list)


class Intake:
    """The reading state of one open bus.

    Attributes:
        readers: All names under which this process reads.
        held: Positions in this process's hands, which are not redelivered to itself, and since when.
    """

    def __init__(self, server: SingleServer | ClusterServer, namespace: str, reader: str, lease: float) -> None:
        self.reader = reader
        self.readers = {reader}
        self.held: dict[Group, dict[bytes, float]] = {}
        self._server = server
        self._namespace = namespace
        self._lease = lease
        self._waiting: SingleWaiting | ClusterWaiting = (
            ClusterWaiting(server, namespace) if isinstance(server, ClusterServer) else SingleWaiting(server, namespace)
        )
        # By topic, groups that have been read to their end, and where that was.
        self._tails: dict[str, dict[Group, bytes]] = {}
        self._missing: set[Group] = set()
        self._candidates: dict[Group, Sequence[bytes]] = {}
        self._swept: dict[Group, float] = {}
        self._lost_reply = False
        self._closed = False

    @property
    def waiting(self) -> Waiting:
        """The wake-up side."""
        return self._waiting

    async def close(self) -> None:
        """End what waits; a read that is under way gives what it has, or :class:`Closed`."""
        self._closed = True
        await self._waiting.close()

    def known(self) -> list[Group]:
        """Return the groups that were read."""
        return list(self._swept)

    def forget(self, group: Group) -> None:
        """Know nothing of a group any more: it was made, or deleted."""
        self._tails.get(group.topic, {}).pop(group, None)

    async def gather(
        self, wishes: Mapping[Group, Wish], wait: float, build: Build, parse: Callable[[Any, Sequence[Wish]], Parsed[T]]
    ) -> list[T]:
        """Return what there is for the wishes, or what comes within ``wait`` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        try:
            while not self._closed:
                due = await self._sweep(wishes, clock())
                ready = self._ready(wishes, look=wait <= 0)
                if ready:
                    items = await self._ask(ready, build, parse)
                    if items:
                        return items
                now = clock()
                if now >= deadline:
                    return []
                items = await self._wait(wishes, min(deadline, due) - now, build, parse)
                if items:
                    return items
        except BackendError as error:
            if self._closed:
                raise Closed("the bus was closed while it was read") from error
            # What was handed over and has not arrived is asked for again, without waiting for its lease.
            self._lost_reply = True
            self._swept.clear()
            raise
        return []

    def _ready(self, wishes: Mapping[Group, Wish], *, look: bool) -> list[Wish]:
        """Return the wishes that may have something; all of them if there is no time to be woken."""
        tails, woken = self._tails, self._waiting.woken
        while woken:
            tails.pop(woken.pop(), None)
        ready = []
        for group, wish in wishes.items():
            wish.candidates = self._candidates.pop(group, ())
            if look or wish.candidates or group not in tails.get(group.topic, ()):
                ready.append(wish)
        return ready

    async def _ask(self, ready: list[Wish], build: Build, parse: Callable[[Any, Sequence[Wish]], Parsed[T]]) -> list[T]:
        items: list[T] = []
        parts = self._parts(ready)
        replies = await self._server.all([build(part) for part in parts])
        for part, reply in zip(parts, replies, strict=True):
            items.extend(self._take_in(part, parse(reply, part)))
        return items

    def _parts(self, wishes: Sequence[Wish]) -> list[Sequence[Wish]]:
        """Divide wishes into those that one script can serve."""
        if not self._server.cluster:
            return [wishes[at : at + CHUNK] for at in range(0, len(wishes), CHUNK)]
        topics: dict[str, list[Wish]] = {}
        for wish in wishes:
            topics.setdefault(wish.group.topic, []).append(wish)
        return list(topics.values())

    def _take_in(self, wishes: Sequence[Wish], parsed: Parsed[T]) -> list[T]:
        for wish, tail in zip(wishes, parsed.tails, strict=True):
            wish.candidates = ()
            tails = self._tails.setdefault(wish.group.topic, {})
            if tail:
                tails[wish.group] = tail
            elif tail is None:
                # No such group: look again when there is something new, and with every sweep.
                tails[wish.group] = b"$"
                self._missing.add(wish.group)
            else:
                tails.pop(wish.group, None)
                self._waiting.used(wish.group.topic)
        return parsed.items

    async def _wait(
        self,
        wishes: Mapping[Group, Wish],
        seconds: float,
        build: Build,
        parse: Callable[[Any, Sequence[Wish]], Parsed[T]],
    ) -> list[T]:
        tails: dict[str, bytes] = {}
        for group in wishes:
            tail = self._tails.get(group.topic, {}).get(group, b"0-0")
            known = tails.get(group.topic)
            if known is None or _order(tail) < _order(known):
                tails[group.topic] = tail
        if not tails:
            await asyncio.sleep(max(0.0, seconds))
            return []
        quick = self._waiting.quick(tails)
        part = [wish for group, wish in wishes.items() if group.topic in quick]
        reply = await self._waiting.wait(tails, max(0.001, seconds), quick, build(part) if part else None)
        return [] if reply is None else self._take_in(part, parse(reply, part))

    async def _sweep(self, wishes: Mapping[Group, Wish], now: float) -> float:
        """Look for entries that nobody works on any more; return when to look again."""
        due, soonest = [], now + _SWEEP_MOST
        returned, self._waiting.returned = self._waiting.returned, False
        for group, wish in wishes.items():
            every = min(_SWEEP_MOST, max(_SWEEP_LEAST, wish.idle / 4))
            at = self._swept.get(group)
            if at is None or returned or now >= at + every:
                due.append(wish)
                self._swept[group] = at = now
                if group in self._missing:
                    self._missing.discard(group)
                    self.forget(group)
            soonest = min(soonest, at + every)
        if due:
            await self._look_for_idle(due, now)
        return soonest

    async def _look_for_idle(self, due: list[Wish], now: float) -> None:
        lost, self._lost_reply = self._lost_reply, False
        calls, parts = [], []
        what = script("pending")
        size = 1 if self._server.cluster else _SWEEP_CHUNK
        for at in range(0, len(due), size):
            part = due[at : at + size]
            args: list[Any] = [CANDIDATES]
            for wish in part:
                idle = 0 if lost else max(1, int(wish.idle * 1000))
                args += (slot(self._namespace, wish.group.topic), wish.group.agent, group_name(wish.group), idle)
            parts.append(part)
            calls.append(Call(what, args[1] + b"s", args))
        try:
            replies = await self._server.all(calls)
        except BackendError:
            self._lost_reply = lost
            raise
        for part, reply in zip(parts, replies, strict=True):
            for place, *found in reply:
                self._note_idle(part[place], found, now, lost=lost)

    def _note_idle(self, wish: Wish, found: list[bytes], now: float, *, lost: bool) -> None:
        held, mine = self.held.get(wish.group, {}), {reader.encode() for reader in self.readers}
        limit = max(60.0, 4 * wish.idle)
        candidates = []
        for position, reader in zip(found[::2], found[1::2], strict=True):
            if lost and reader not in mine:
                continue
            if reader in mine and now - held.get(position, float("-inf")) < limit:
                continue
            candidates.append(position)
        if candidates:
            self._candidates[wish.group] = candidates
            wish.idle = 0.0 if lost else wish.idle


def _order(position: bytes) -> tuple[float, int]:
    if position == b"$":
        return (float("inf"), 0)
    first, _, second = position.partition(b"-")
    return (int(first), int(second or 0))
