"""Places in a topic: positions count from 1 and are never used twice."""

from __future__ import annotations

from omnidaemon.model.errors import ConfigurationError
from omnidaemon.model.run import Start
from omnidaemon_sqlite._session import Session

__all__ = ["base", "before", "first_since", "place", "upto"]

_SPAN = 1 << 40


def base(topic: int) -> int:
    """Return the ref that lies before all of a topic's events."""
    return topic * _SPAN


def place(ref: int) -> int:
    """Return the position of an event."""
    return ref % _SPAN


def before(session: Session, topic: int, last: int, start: Start) -> int:
    """Return the cursor from which reading begins at ``start``.

    Raises:
        ConfigurationError: ``start`` is a position that this bus never gave.
    """
    if start.kind == "now":
        return last
    if start.kind == "time":
        return first_since(session, topic, last, start.time) - 1
    oldest = _retained(session, topic, 1)
    first = last + 1 if oldest is None else oldest[0]
    return first - 1 if start.kind == "beginning" else min(max(_number(start.position), first) - 1, last)


def upto(session: Session, topic: int, last: int, end: Start) -> int:
    """Return the last position that a reading which ends at ``end`` gives; ends are inclusive."""
    if end.kind == "beginning":
        return 0
    if end.kind == "position":
        return min(_number(end.position), last)
    if end.kind == "time":
        return first_since(session, topic, last, end.time, after=True) - 1
    return last


def first_since(session: Session, topic: int, last: int, time: float, *, after: bool = False) -> int:
    """Return the first position published at a time or later; with ``after`` only later.

    Publish times never run backwards within a topic, so halving finds it without an index.
    """
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        row = _retained(session, topic, middle)
        if row is None or row[0] >= high:
            high = middle
        elif row[1] < time or (after and row[1] == time):
            low = row[0] + 1
        else:
            high = middle
    row = _retained(session, topic, low)
    return last + 1 if row is None else int(row[0])


def _retained(session: Session, topic: int, position: int) -> tuple[int, float] | None:
    """Return position and publish time of the first retained event from a position on."""
    row = session.connection.execute(
        "SELECT ref, published FROM events WHERE ref >= ? AND ref < ? ORDER BY ref LIMIT 1",
        (base(topic) + position, base(topic + 1)),
    ).fetchone()
    return None if row is None else (place(row[0]), row[1])


def _number(position: str) -> int:
    if not position.isdecimal():
        raise ConfigurationError(f"{position!r} is no position of the SQLite bus: use one that it gave, such as '17'")
    return int(position)
