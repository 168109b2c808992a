"""Claims, inbox and settlement as calls of scripts, and their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omnidaemon.model.run import (
    Adoption,
    Ask,
    DueWant,
    Grant,
    GrantKind,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    TaskState,
)
from omnidaemon_redis._names import optional, raw, slot, text

__all__ = ["adoption_args", "ask_args", "due_args", "grant", "group_args", "hold_args", "ms", "outcome_args"]

_KINDS = (
    GrantKind.GRANTED,
    GrantKind.BUSY,
    GrantKind.BEHIND,
    GrantKind.SUSPECT,
    GrantKind.HELD,
    GrantKind.FINISHED,
    GrantKind.CANCELED,
    GrantKind.GONE,
)
_GRANTED = 0
_FINISHED = 5
# Leases are kept with 13 digits.
_LONGEST = 10**12


def ms(seconds: float) -> int:
    """Return milliseconds, never early."""
    return min(_LONGEST, math.ceil(seconds * 1000 - 1e-6))


def group_args(namespace: str, group: Group) -> tuple[bytes, str, int]:
    """Return how scripts are told a group."""
    return slot(namespace, group.topic), group.agent, group.epoch


def grant(answer: Sequence[Any]) -> Grant:
    """Return a claim's answer."""
    kind = answer[0]
    if kind == _GRANTED:
        _, token, generation, attempt, lost, data, state, _, body, event_id = answer
        return Grant(
            GrantKind.GRANTED,
            generation,
            attempt,
            lost,
            data,
            TaskState(state.decode()),
            unsent=False,
            body=body,
            event_id=text(event_id),
            token=text(token),
        )
    return Grant(_KINDS[kind], unsent=kind == _FINISHED and bool(answer[7]))


def ask_args(namespace: str, ask: Ask) -> tuple[Any, ...]:
    """Return what ``claim.lua`` is told of an ask."""
    return (
        *group_args(namespace, ask.group),
        raw(ask.event_id),
        raw(ask.token),
        ms(ask.lease),
        optional(ask.lane),
        optional(ask.after),
        optional(ask.tenant),
        int(ask.takeover),
        raw(ask.position),
    )


def due_args(namespace: str, group: Group, want: DueWant) -> tuple[Any, ...]:
    """Return what ``due.lua`` is told of a group."""
    limit = max(0, want.limit)
    return (*group_args(namespace, group), limit, ms(want.lease), int(want.alone), int(want.takeover))


def hold_args(namespace: str, hold: Hold) -> tuple[Any, ...]:
    """Return what ``hold.lua`` is told of a claim."""
    return (*group_args(namespace, hold.group), raw(hold.event_id), raw(hold.token), ms(hold.lease))


def adoption_args(namespace: str, item: Adoption) -> tuple[Any, ...]:
    """Return what ``adopt.lua`` is told of an event."""
    return (
        *group_args(namespace, item.group),
        raw(item.event_id),
        optional(item.token),
        optional(item.lane),
        optional(item.after),
        optional(item.tenant),
        ms(item.delay),
        item.body,
        raw(item.position),
    )


def outcome_args(namespace: str, outcome: Outcome, position: bytes) -> list[Any]:
    """Return what ``settle.lua`` is told of an outcome; with a position, it acknowledges the delivery."""
    final = outcome.kind is OutcomeKind.FINAL
    args: list[Any] = [
        *group_args(namespace, outcome.group),
        raw(outcome.event_id),
        raw(outcome.token),
        outcome.kind.value,
        outcome.state.value,
        outcome.attempt,
        b"" if outcome.delay is None else ms(outcome.delay),
        optional(outcome.question),
        optional(outcome.dead) if final else b"",
        ms(outcome.ttl),
        ms(outcome.mark_ttl),
        optional(outcome.tenant),
        b"" if outcome.result is None else b"=" + outcome.result,
        int(outcome.body is not None),
        outcome.body or b"",
        outcome.data,
        position,
        len(outcome.counts),
    ]
    for name, value in outcome.counts:
        args += (raw(name), repr(float(value)))
    args.append(len(outcome.outbox))
    for row in outcome.outbox:
        event = row.event
        args += (event.topic, raw(event.id), optional(event.key), event.body, ms(row.delay))
        args.append(b"" if row.deliver_at is None else math.ceil(row.deliver_at * 1000 - 1e-6))
    return args
