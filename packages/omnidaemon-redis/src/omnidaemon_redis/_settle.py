"""Settling a batch: the short way for runs that ended for good at their first attempt, else the general one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from omnidaemon.model.run import Group, Outcome, OutcomeKind
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import raw, slot
from omnidaemon_redis._records import fast_record
from omnidaemon_redis._runs import ms, outcome_args
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer
from omnidaemon_redis._tag import Tag

__all__ = ["Settler"]

_LONGEST_FAST_TTL = 10**11
_CHUNK = 256
_CLOCK_SKEW = 600_000


class Settler:
    """Turns outcomes into script calls."""

    def __init__(
        self, server: SingleServer | ClusterServer, namespace: str, metrics_ttl: float, retention: float
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._metrics_ttl = ms(metrics_ttl)
        self._retention = retention * 1000

    async def settle(self, outcomes: Sequence[Outcome], *, fused: bool) -> list[bool]:
        """See ``Store.settle``; ``fused``: deliveries are acknowledged in the same step."""
        answers = [True] * len(outcomes)
        general: list[int] = []
        parts = [
            (key, found[at : at + _CHUNK])
            for key, found in self._fast(outcomes, general).items()
            for at in range(0, len(found), _CHUNK)
        ]
        while parts:
            # A script that finds one run which is not for the short way does nothing, and says which.
            calls = [self._fast_call(*key, [outcomes[place] for place in part], fused=fused) for key, part in parts]
            again = []
            for (key, part), refused in zip(parts, await self._server.all(calls), strict=True):
                out = {part[place - 1] for place in refused}
                general.extend(out)
                left = [place for place in part if place not in out]
                if out and left:
                    again.append((key, left))
            parts = again
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
                or not 0 < outcome.ttl <= outcome.mark_ttl < _LONGEST_FAST_TTL
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
        ttl_ms = ms(ttl)
        args: list[Any] = [prefix, group.agent, group.epoch, ttl_ms, ms(mark_ttl), self._metrics_ttl, len(outcomes)]
        sums: dict[str, float] = {}
        acks: list[bytes] = []
        # What was published after this moment, the topic keeps for longer than its record is kept.
        kept = time.time() * 1000 + ttl_ms - self._retention + _CLOCK_SKEW
        for outcome in outcomes:
            for name, value in outcome.counts:
                sums[name] = sums.get(name, 0) + value
            delivery = outcome.delivery
            tag = delivery.tag if fused and delivery is not None else None
            if type(tag) is Tag:
                position = tag.position
                acks.append(position)
                body_at = position if outcome.body is not None and int(position[:13]) > kept else b""
                args += (raw(outcome.event_id), fast_record(outcome, tag.claimed, body_at))
            else:
                acks.append(b"")
                args += (raw(outcome.event_id), fast_record(outcome, 0, b""))
        args += acks
        for name, value in sums.items():
            args += (raw(name), repr(value))
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
