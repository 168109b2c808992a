"""Lanes: events of one key or session, one at a time and in order (D12, R5, M9)."""

from __future__ import annotations

import re

from omnidaemon.ports.ledger.tables import RunRow, Tables

__all__ = ["enter", "is_head", "leave"]

_NUMBER = re.compile("[0-9]+")


def enter(tables: Tables, row: RunRow, lane: str, after: str | None = None, position: str = "") -> None:
    """Give ``row`` its place, and its predecessor too if nobody has met that one yet.

    The place follows the event's position: of two events that different readers hold, the later one
    may be met first, and then reserves for its predecessor a place that says nothing of what lies
    before that. What has no position of its own, a replay or an answer, goes behind all that wait.
    """
    row.lane = lane
    if row.lane_seq is None:
        row.position = position
        _settle_down(tables, row, lane)
    elif position:
        row.position = position  # until now the place was a reservation, under its successor's position
    if after is not None:
        _reserve(tables, row, lane, after)


def is_head(tables: Tables, row: RunRow) -> bool:
    """Return whether nothing unfinished lies before ``row`` in its lane."""
    if row.lane is None or row.lane_seq is None:
        return True
    return tables.lane(row.group, row.lane, before=row.lane_seq) is None


def leave(tables: Tables, row: RunRow, now: float) -> None:
    """Take ``row`` out of its lane (the caller writes it) and let the next one go."""
    if row.lane is None or row.lane_seq is None:
        return
    row.lane_seq = None
    tables.put_run(row)
    head = tables.lane(row.group, row.lane)
    if head is not None and head.blocked:
        head.blocked, head.due = False, now
        tables.put_run(head)


def _settle_down(tables: Tables, row: RunRow, lane: str) -> None:
    """Find the place: behind what lies before it on the bus, before what lies behind and has not begun."""
    other = tables.lane(row.group, lane, last=True)
    if not row.position and other is not None:
        row.position = other.position
    mine, following = _order(row.position), None
    while other is not None and _order(other.position) > mine and not _begun(other):
        following = other
        other = tables.lane(row.group, lane, before=other.lane_seq)
    row.lane_seq = _between(other, following)


def _reserve(tables: Tables, row: RunRow, lane: str, after: str) -> None:
    group = row.group
    known = tables.run(group.topic, group.agent, after)
    if known is not None and known.group == group:
        return  # it has its place, or is final, or waits for an answer and holds no lane
    if tables.mark(group, after) or row.lane_seq is None:
        return
    place = RunRow(group=group, event_id=after, lane=lane, position=row.position)
    place.created = place.updated = tables.now()
    place.lane_seq = _between(tables.lane(group, lane, before=row.lane_seq), row)
    tables.put_run(place)


def _begun(row: RunRow) -> bool:
    """Return whether a run of a lane has its turn already: it runs, or ``due`` may hand it out."""
    return row.token is not None or (row.inbox and not row.blocked)


def _between(low: RunRow | None, high: RunRow | None) -> float:
    """Return a place in the lane behind ``low`` and before ``high``."""
    below = None if low is None else low.lane_seq
    above = None if high is None else high.lane_seq
    if above is None:
        return 1.0 if below is None else below + 1.0
    return above - 1.0 if below is None else (below + above) / 2


def _order(position: str) -> list[int]:
    """Return what positions of one lane are compared by: the numbers in them."""
    return [int(number) for number in _NUMBER.findall(position)]
