"""Settling a batch: the short way for runs that ended for good at their first attempt, else the general one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnidaemon.model.run import Group, Outcome, OutcomeKind
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import raw, slot
from omnidaemon_redis._records import fast_tail
from omnidaemon_redis._runs import ms, outcome_args
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer
from omnidaemon_redis._tag import Tag

__all__ = ["Settler"]

_LONGEST_FAST_TTL = 10**11
_CHUNK = 256


class Settler:
    """Turns outcomes into script calls."""

    def __init__(self, server: SingleServer | ClusterServer, namespace: str, metrics_ttl: float) -> None:
        self._server = server
        self._namespace = namespace
        self._metrics_ttl = ms(metrics_ttl)

    async def settle(self, outcomes: Sequence[Outcome], *, fused: bool) -> list[bool]:
        """See ``Store.settle``; ``fused``: deliveries are acknowledged in the same step."""
        answers = [True] * len(outcomes)
        calls: list[Call] = []
        places: list[list[int]] = []
        general: list[int] = []
        for (group, ttl, mark_ttl), found in self._fast(outcomes, general).items():
            for at in range(0, len(found), _CHUNK):
                part = found[at : at + _CHUNK]
                places.append(part)
                calls.append(self._fast_call(group, ttl, mark_ttl, [outcomes[place] for place in part], fused=fused))
        if calls:
            for part, refused in zip(places, await self._server.all(calls), strict=True):
                general.extend(part[place - 1] for place in refused)
        if general:
            general.sort()
            await self._general(outcomes, general, answers, fused=fused)
        return answers

    def _fast(self, outcomes: Sequence[Outcome], general: list[int]) -> dict[tuple[Group, float, float], list[int]]:
        found: dict[tuple[Group, float, float], list[int]] = {}
        seen: set[tuple[Group, str]] = set()
        final = OutcomeKind.FINAL
        for place, outcome in enumerate(outcomes):
            group = outcome.group
            key = (group, outcome.event_id)
            if (
                outcome.kind is not final
                or outcome.dead is not None
                or outcome.outbox
                or not 0 < outcome.ttl < _LONGEST_FAST_TTL
                or key in seen
            ):
                general.append(place)
            else:
                found.setdefault((group, outcome.ttl, outcome.mark_ttl), []).append(place)
            seen.add(key)
        return found

    def _fast_call(
        self, group: Group, ttl: float, mark_ttl: float, outcomes: Sequence[Outcome], *, fused: bool
    ) -> Call:
        prefix = slot(self._namespace, group.topic)
        args: list[Any] = [prefix, group.agent, group.epoch, ms(ttl), ms(mark_ttl), self._metrics_ttl]
        sums: dict[str, float] = {}
        acks = True
        runs: list[Any] = []
        for outcome in outcomes:
            counts = outcome.counts
            for name, value in counts:
                sums[name] = sums.get(name, 0.0) + value
            tag = outcome.delivery.tag if fused and outcome.delivery is not None else None
            position = tag[0] if type(tag) is Tag else b""
            if not position:
                acks = False
            runs += (
                position,
                raw(outcome.event_id),
                raw(outcome.token),
                fast_tail(outcome),
                "".join([f"{name}\0{value!r}\0" for name, value in counts]),
            )
        args += (int(acks), len(outcomes))
        args += runs
        for name, value in sums.items():
            args += (name, repr(value))
        return Call(script("finish"), prefix + b"s", args)

    async def _general(
        self, outcomes: Sequence[Outcome], places: Sequence[int], answers: list[bool], *, fused: bool
    ) -> None:
        parts: dict[str, list[int]] = {}
        for place in places:
            parts.setdefault(outcomes[place].group.topic, []).append(place)
        calls = []
        for topic, found in parts.items():
            args: list[Any] = [self._metrics_ttl, len(found)]
            for place in found:
                outcome = outcomes[place]
                tag = outcome.delivery.tag if fused and outcome.delivery is not None else None
                args += outcome_args(self._namespace, outcome, tag.position if isinstance(tag, Tag) else b"")
            calls.append(Call(script("settle"), slot(self._namespace, topic) + b"s", args))
        for found, reply in zip(parts.values(), await self._server.all(calls), strict=True):
            for place, accepted in zip(found, reply, strict=True):
                answers[place] = bool(accepted)
