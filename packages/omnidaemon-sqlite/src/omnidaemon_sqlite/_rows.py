"""Runs as rows of SQL."""

from __future__ import annotations

import struct
from typing import Any

from omnidaemon.model.run import Group, TaskState
from omnidaemon.ports.ledger import RunRow

__all__ = ["CLAIMED", "INBOX", "READ_RUN", "WAITING", "WRITE_RUN", "run_of", "values_of"]

_COLUMNS = (
    *("event", "epoch", "state", "generation", "attempt", "starts", "lost", "token", "worker", "lease_until"),
    *(
        "spent",
        "op",
        "inbox",
        "due",
        "blocked",
        "lane",
        "lane_seq",
        "position",
        "question",
        "dead",
        "tenant",
        "created",
    ),
    *("updated", "expires", "chunks", "data", "result", "body", "notes"),
)
_WRITTEN = ["agent", *_COLUMNS, "ready", "live", "suspect"]
_CHANGED = [name for name in _WRITTEN if name not in {"agent", "event"}]

READ_RUN = ", ".join(f"runs.{name}" for name in _COLUMNS)
WRITE_RUN = (
    f"INSERT INTO runs ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))})"  # noqa: S608 - our columns
    f" ON CONFLICT (agent, event) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _CHANGED)}"
)

CLAIMED, INBOX, WAITING = 2, 4, 8
_STATES = {state.value: state for state in TaskState}
_LENGTH = struct.Struct(">I")


def run_of(topic: str, agent: str, row: tuple[Any, ...]) -> RunRow:
    """Return the run of a row of ``READ_RUN``."""
    (event, epoch, state, generation, attempt, starts, lost, token, worker, lease_until, spent, op, inbox, due,
     blocked, lane, lane_seq, position, question, dead, tenant, created, updated, expires, chunks, data, result,
     body, notes) = row  # fmt: skip
    return RunRow(
        Group(topic, agent, epoch), event, _STATES[state], generation, attempt, starts, lost, token, worker,
        lease_until, spent, op, bool(inbox), due, bool(blocked), lane, lane_seq, position, question, dead, tenant,
        created, updated, expires, chunks, data, result, body, {} if notes is None else _unpack(notes),
    )  # fmt: skip


def values_of(agent: int, row: RunRow) -> tuple[Any, ...]:
    """Return the values of ``WRITE_RUN``."""
    return (
        agent, row.event_id, row.group.epoch, row.state.value, row.generation, row.attempt, row.starts, row.lost,
        row.token, row.worker, row.lease_until, row.spent, row.op, row.inbox, row.due, row.blocked, row.lane,
        row.lane_seq, row.position, row.question, row.dead, row.tenant, row.created, row.updated, row.expires,
        row.chunks, row.data, row.result, row.body, _pack(row.notes) if row.notes else None,
        row.ready, _live(row), row.suspect,
    )  # fmt: skip


def _live(row: RunRow) -> int:
    """Return what the store counts runs by."""
    if row.state.final:
        return 0
    waits = row.state is TaskState.INPUT_REQUIRED
    return 1 + CLAIMED * (row.token is not None) + INBOX * row.inbox + WAITING * waits


def _pack(notes: dict[str, bytes]) -> bytes:
    parts: list[bytes] = []
    for key, value in notes.items():
        for part in (key.encode(), value):
            parts += [_LENGTH.pack(len(part)), part]
    return b"".join(parts)


def _unpack(packed: bytes) -> dict[str, bytes]:
    parts: list[bytes] = []
    place = 0
    while place < len(packed):
        (length,) = _LENGTH.unpack_from(packed, place)
        place += _LENGTH.size
        parts.append(packed[place : place + length])
        place += length
    return {key.decode(): value for key, value in zip(parts[::2], parts[1::2], strict=True)}
