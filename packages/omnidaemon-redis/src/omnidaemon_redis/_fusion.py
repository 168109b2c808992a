"""Bus and store on one server: the read is the claim (design: fusion)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omnidaemon.model.run import Delivery, DueWant, Grant, GrantKind, Group
from omnidaemon.ports.store import Fusion
from omnidaemon_redis._intake import Parsed, Wish
from omnidaemon_redis._names import raw, slot, text
from omnidaemon_redis._runs import grant, ms
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call
from omnidaemon_redis._tag import Tag
from omnidaemon_redis.event_bus import RedisEventBus

__all__ = ["RedisFusion"]

Pair = tuple[Delivery, Grant]
# Numbers of one call's tokens start anew with each script it runs, this far apart.
_APART = 1_000_000
_REMEMBERED = 256


class RedisFusion:
    """Takes events by one script a slot, through the bus's own way of waiting."""

    def __init__(self, bus: RedisEventBus) -> None:
        self._bus = bus
        # The last calls: one that is made again hands out what it granted before (M1).
        self._calls: dict[str, None] = {}

    async def take(self, worker: str, call: str, want: Mapping[Group, DueWant], wait: float) -> list[Pair]:
        """See ``Fusion.take``."""
        intake = self._bus.opened("take").intake
        idle = self._bus.settings.lease
        intake.readers.add(worker)
        taking = _Taking(self._bus.settings.namespace, worker, call)
        wishes = {
            group: Wish(group, wish.limit, wish.lease, wish.takeover, idle=min(idle, wish.lease))
            for group, wish in want.items()
            if wish.limit > 0
        }
        if call in self._calls:
            again = await self._again(taking, wishes)
            if again:
                return again
        self._calls[call] = None
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]
        return await intake.gather(wishes, wait, taking.build, taking.parse)

    async def _again(self, taking: _Taking, wishes: Mapping[Group, Wish]) -> list[Pair]:
        """Return what the call was granted before."""
        server = self._bus.opened("take").server
        slots: dict[str, list[Wish]] = {}
        for wish in wishes.values():
            slots.setdefault(wish.group.topic if server.cluster else "", []).append(wish)
        found: list[Pair] = []
        for part in slots.values():
            call = taking.build(part, again=True)
            found.extend(taking.parse(await server.one(call), part).items)
        return found


class _Taking:
    """One call of ``take``: its script calls and their answers."""

    __slots__ = ("_namespace", "_number", "_worker", "call")

    def __init__(self, namespace: str, worker: str, call: str) -> None:
        self._namespace = namespace
        self._worker = worker
        self._number = 0
        self.call = call

    def build(self, wishes: Sequence[Wish], *, again: bool = False) -> Call:
        """Return the script call for some wishes."""
        number = self._number
        self._number += _APART
        args: list[Any] = [raw(self._worker), raw(self.call), number]
        for wish in wishes:
            group = wish.group
            args += (slot(self._namespace, group.topic), group.topic, group.agent, group.epoch, wish.limit)
            mode = 2 if again else int(wish.takeover)
            args += (ms(wish.lease), mode, ms(wish.idle), len(wish.candidates), *wish.candidates)
        return Call(script("take"), args[3] + b"s", args)

    def parse(self, reply: Any, wishes: Sequence[Wish]) -> Parsed[Pair]:
        """Return deliveries and grants."""
        parsed = Parsed[Pair]([])
        items, call, reader = parsed.items, self.call, self._worker
        granted = GrantKind.GRANTED
        for wish, (tail, number, now, fast, others) in zip(wishes, reply, strict=True):
            parsed.tails.append(tail)
            group = wish.group
            for place in range(len(fast) // 3):
                position, event_id = fast[3 * place], text(fast[3 * place + 1])
                tag = Tag(position, reader, now)
                delivery = Delivery(group, event_id, fast[3 * place + 2], position.decode(), tag=tag)
                items.append((delivery, Grant(granted, event_id=event_id, token=f"{call}.{number + place}")))
            for position, event_id, body, key, after, answer in others:
                delivery = Delivery(
                    group,
                    text(event_id),
                    body,
                    position.decode(),
                    text(key[1:]) if key else None,
                    text(after[1:]) if after else None,
                    Tag(position, reader),
                )
                items.append((delivery, grant(answer)))
        return parsed


if TYPE_CHECKING:
    _: type[Fusion] = RedisFusion
