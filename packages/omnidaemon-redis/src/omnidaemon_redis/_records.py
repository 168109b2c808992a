"""Records as they are kept (``lua/runs.lua`` says how), and listing them page by page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omnidaemon.model.run import Group, Outcome, Record, TaskState
from omnidaemon.ports.store import AgentRow, Page, Query
from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._names import optional, raw, slot, text
from omnidaemon_redis._scripts import script
from omnidaemon_redis._server import Call, SingleServer

__all__ = ["fast_record", "list_records", "remove_records"]

_FIELDS = 24
_BUDGET = 1000
_REMOVE = 200
_ANSWER = "answer:"
Server = SingleServer | ClusterServer


def fast_record(outcome: Outcome, claimed: int, position: bytes) -> bytes:
    """Return a final record as ``lua/finals.lua`` says.

    Args:
        outcome: A final one, no dead letter.
        claimed: When it was claimed, milliseconds; 0 where only the claim knows.
        position: Where the topic keeps the event, if it does so for longer than the record is kept.
    """
    result = outcome.result
    return b"%b\0%b\0%b\0%b\0%d\0%b\0%b\0%b%b%b" % (
        raw(outcome.token),
        b"%d" % claimed if claimed else b"",
        optional(outcome.tenant),
        outcome.state.value.encode(),
        len(outcome.data),
        b"" if result is None else b"%d" % len(result),
        position,
        outcome.data,
        result or b"",
        b"" if position else outcome.body or b"",
    )


def _number(value: bytes) -> float | None:
    return int(value) / 1000 if value else None


def _optional(value: bytes) -> str | None:
    return text(value[1:]) if value else None


def _record(topic: str, agent: str, item: Sequence[Any]) -> Record:
    event_id, packed, data, result, body, notes = item
    parts = packed.split(b"\0", _FIELDS)
    epoch, generation, attempt, starts, lost, token, worker, lease, _, inbox, due, blocked = parts[:12]
    _, _, question, _, _, _, created, updated, expires, state, dead, tenant = parts[12:_FIELDS]
    final = TaskState(state.decode()).final
    ready: float | None = None
    if inbox == b"1" and not final:
        ready = _number(lease) if token else (None if blocked == b"1" else _number(due))
    answers = {
        text(name)[len(_ANSWER) :]: value
        for name, value in zip(notes[::2], notes[1::2], strict=True)
        if name.startswith(_ANSWER.encode())
    }
    return Record(
        group=Group(topic, agent, int(epoch)),
        event_id=text(event_id),
        state=TaskState(state.decode()),
        generation=int(generation),
        attempt=int(attempt),
        starts=int(starts),
        lost=int(lost),
        due=ready,
        worker=_optional(worker) if token else None,
        question=_optional(question),
        dead=_optional(dead),
        tenant=_optional(tenant),
        created=int(created) / 1000,
        updated=int(updated) / 1000,
        expires=_number(expires),
        data=data,
        result=result[1:] if result else None,
        body=body,
        answers=answers,
    )


def _key(record: Record) -> tuple[float, bytes, str, str]:
    return (record.updated, record.event_id.encode("utf-8", "surrogatepass"), record.group.agent, record.group.topic)


@dataclass(slots=True)
class _Source:
    """The records of one agent, newest first, read page by page."""

    topic: str
    agent: str
    top: bytes = b""
    below: bytes = b""
    found: list[Record] = field(default_factory=list)
    ended: bool = False

    def call(self, namespace: str, query: Query, limit: int, *, remove: bool = False) -> Call:
        prefix = slot(namespace, self.topic)
        ids = (
            []
            if query.event_ids is None
            else [event_id.encode("utf-8", "surrogatepass") for event_id in query.event_ids]
        )
        states = b"" if query.states is None else b",%b," % b",".join(state.value.encode() for state in query.states)
        args: list[Any] = [prefix, self.agent, limit, _BUDGET, self.top, self.below]
        args += (_ms(query.since), _ms(query.until), states)
        args += (b"" if query.dead is None else int(query.dead), optional(query.tenant), len(ids), *ids)
        if remove:
            args.append(b"remove=1")
        return Call(script("page"), prefix + b"s", args)

    def note(self, reply: Any, *, listed: bool = True) -> None:
        items, time, event_id = reply
        if listed:
            self.found.extend(_record(self.topic, self.agent, item) for item in items)
        self.top, self.below = time, event_id
        self.ended = not time


def _ms(time: float | None) -> bytes:
    return b"" if time is None else b"%d" % math.ceil(time * 1000 - 1e-6)


def _sources(agents: Sequence[AgentRow], query: Query) -> list[_Source]:
    if query.event_ids is not None and not query.event_ids:
        return []
    return [
        _Source(row.topic, row.agent)
        for row in agents
        if query.topic in (None, row.topic) and query.agent in (None, row.agent)
    ]


async def list_records(
    server: Server, namespace: str, agents: Sequence[AgentRow], query: Query, cursor: str | None, limit: int
) -> Page[Record]:
    """Return one page over all agents that match."""
    sources = _sources(agents, query)
    after: tuple[float, bytes, str, str] | None = None
    if cursor is not None:
        updated, event_id, agent, topic = json.loads(base64.urlsafe_b64decode(cursor))
        after = (updated, event_id.encode("utf-8", "surrogatepass"), agent, topic)
        for source in sources:
            source.top = _ms(updated)
            # Of equal times, what lies below this id; the id itself may belong to another agent's page.
            source.below = (
                b"=" + after[1] + b"\xff" if (source.agent, source.topic) < (agent, topic) else b"=" + after[1]
            )
    found: list[Record] = []
    wanted = limit + 1
    while len(found) < wanted:
        empty = [source for source in sources if not source.found and not source.ended]
        if empty:
            calls = [source.call(namespace, query, min(wanted, 200)) for source in empty]
            for source, reply in zip(empty, await server.all(calls), strict=True):
                source.note(reply)
            continue
        best = max(
            (source for source in sources if source.found), key=lambda source: _key(source.found[0]), default=None
        )
        if best is None:
            break
        record = best.found.pop(0)
        if after is None or _key(record) < after:
            found.append(record)
    if len(found) <= limit:
        return Page(found)
    last = _key(found[limit - 1])
    place = [last[0], last[1].decode("utf-8", "surrogatepass"), last[2], last[3]]
    return Page(found[:limit], base64.urlsafe_b64encode(json.dumps(place).encode()).decode())


async def remove_records(server: Server, namespace: str, agents: Sequence[AgentRow], query: Query) -> int:
    """Remove final records that match; return how many."""
    removed = 0
    for source in _sources(agents, query):
        while not source.ended:
            reply = await server.one(source.call(namespace, query, _REMOVE, remove=True))
            removed += reply[0]
            source.note(reply, listed=False)
    return removed
