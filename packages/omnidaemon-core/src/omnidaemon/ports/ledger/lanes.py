"""Lanes: events of one key or session, one at a time and in order (D12, R5, M9)."""

from __future__ import annotations

from omnidaemon.ports.ledger.tables import RunRow, Tables

__all__ = ["enter", "is_head", "leave"]


def enter(tables: Tables, row: RunRow, lane: str, after: str | None) -> None:
    """Give ``row`` its place, and its predecessor too if nobody has met that one yet."""
    row.lane = lane
    if after is not None:
        _reserve(tables, row, lane, after)
    if row.lane_seq is None:
        last = tables.lane(row.group, lane, last=True)
        row.lane_seq = 1.0 if last is None or last.lane_seq is None else last.lane_seq + 1.0


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


def _reserve(tables: Tables, row: RunRow, lane: str, after: str) -> None:
    group = row.group
    known = tables.run(group.topic, group.agent, after)
    if known is not None and known.group == group:
        return  # it has its place, or is final, or waits for an answer and holds no lane
    if tables.mark(group, after):
        return
    place = RunRow(group=group, event_id=after, lane=lane, created=tables.now(), updated=tables.now())
    if row.lane_seq is None:
        last = tables.lane(group, lane, last=True)
        place.lane_seq = 1.0 if last is None or last.lane_seq is None else last.lane_seq + 1.0
    else:
        before = tables.lane(group, lane, before=row.lane_seq)
        low = row.lane_seq - 2.0 if before is None or before.lane_seq is None else before.lane_seq
        place.lane_seq = (low + row.lane_seq) / 2
    tables.put_run(place)
