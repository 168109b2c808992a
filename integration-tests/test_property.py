"""The same random histories on every backend: each answer must be the memory adapters' answer.

A history is a list of operations on one bus and one store, as a worker would call them. Time is kept
out of it: a lease or delay is either over at once or far away.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    Delivery,
    DueWant,
    Grant,
    GrantKind,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    Outgoing,
    Start,
    TaskState,
)
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Decision, Put, Query, Store
from omnidaemon_memory import MemoryEventBus, MemoryStore

pytestmark = pytest.mark.slow
FAR = 3600.0
OVER = 0.001
TICK = 0.0015
DUE_MAKERS = {
    "read",
    "fail",
    "retry_after",
    "ask",
    "hand_back",
    "crash",
    "adopt",
    "cancel",
    "answer",
    "replay",
    "rerun",
}
EVENTS = [f"event-{number}" for number in range(5)]
Pair = tuple[EventBus, Store]
Operation = tuple[Any, ...]

_index = st.integers(0, 7)
_event = st.sampled_from(EVENTS)
operations = st.one_of(
    st.tuples(st.just("publish"), _event, st.sampled_from([None, "k:a", "k:b"])),
    st.tuples(st.just("publish"), _event, st.none()),
    st.tuples(st.just("read"), st.integers(1, 3), st.sampled_from([FAR, FAR, OVER])),
    st.tuples(st.just("read"), st.integers(1, 3), st.just(FAR)),
    st.tuples(st.just("complete"), _index),
    st.tuples(st.just("complete"), _index),
    st.tuples(st.just("fail"), _index, st.sampled_from([0.0, 0.0, FAR])),
    st.tuples(st.just("retry_after"), _index, st.sampled_from([0.0, FAR])),
    st.tuples(st.just("dead"), _index),
    st.tuples(st.just("ask"), _index),
    st.tuples(st.just("hand_back"), _index),
    st.tuples(st.just("repeat_settle"), _index),
    st.tuples(st.just("crash"), _index),
    st.tuples(st.just("adopt"), _index),
    st.tuples(st.just("renew"), st.sampled_from([FAR, OVER])),
    st.tuples(st.just("due"), st.integers(1, 3), st.sampled_from([FAR, OVER]), st.booleans()),
    st.tuples(st.just("due"), st.integers(1, 3), st.just(FAR), st.booleans()),
    st.tuples(st.just("cancel"), _event),
    st.tuples(st.just("answer"), _event),
    st.tuples(st.just("replay"), _event),
    st.tuples(st.just("rerun"), _event),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("progress"), _index),
    st.tuples(st.just("note"), _index),
    st.tuples(st.just("defer"), _event),
    st.tuples(st.just("relay")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("look")),
)


class History:
    """Runs operations on one pair and keeps every answer, with times left out."""

    def __init__(self, bus: EventBus, store: Store) -> None:
        self.bus, self.store = bus, store
        self.trace: list[Any] = []
        self.holds: list[tuple[Hold, Grant, Delivery | None]] = []
        self.settled: list[Outcome] = []
        self.numbers = itertools.count()
        self.group = Group("work", "agent", 1)

    async def run(self, history: list[Operation]) -> list[Any]:
        row, deleted = await self.store.enroll("work", "agent", b"{}")
        self.group = row.group
        await self.bus.ensure("work", {row.group: Start("beginning")})
        self.trace.append((row.epoch, deleted))
        for name, *arguments in history:
            answer = await getattr(self, f"do_{name}")(*arguments)
            if name in DUE_MAKERS:
                # Some clocks tick in milliseconds: two steps must not make something due in the same one.
                await asyncio.sleep(TICK)
            self.trace.append((name, *arguments, answer))
        await self.do_look()
        self.trace.append(await self.do_look())
        return self.trace

    def token(self) -> str:
        return f"token.{next(self.numbers)}"

    def pick(self, index: int) -> tuple[Hold, Grant, Delivery | None] | None:
        return self.holds[index % len(self.holds)] if self.holds else None

    async def do_publish(self, event: str, key: str | None) -> Any:
        outgoing = Outgoing("work", event, f"body of {event}".encode(), key)
        return [isinstance(answer, Exception) for answer in await self.bus.publish([outgoing], 5.0)]

    async def do_read(self, limit: int, lease: float) -> Any:
        deliveries = await self.bus.read({self.group: limit}, 0.0)
        asks = [Ask(self.group, item.id, self.token(), lease, item.key, item.after) for item in deliveries]
        grants = await self.store.claim("worker", asks)
        again = await self.store.claim("worker", asks) if lease == FAR else grants
        finished: list[Delivery] = []
        for item, ask, grant in zip(deliveries, asks, grants, strict=True):
            if grant.kind is GrantKind.GRANTED:
                self.holds.append((Hold(self.group, item.id, ask.token, FAR), grant, item))
            elif grant.kind in (GrantKind.BUSY, GrantKind.BEHIND, GrantKind.SUSPECT):
                adoption = Adoption(self.group, item.id, item.body, None, item.key, item.after)
                if all(await self.store.adopt([adoption])):
                    finished.append(item)
            else:
                finished.append(item)
        await self.bus.ack(finished)
        if lease == OVER:
            await asyncio.sleep(OVER * 3)
        seen = [(item.id, item.body, item.key, item.after) for item in deliveries]
        return seen, [self.shape(grant) for grant in grants], [self.shape(grant) for grant in again]

    @staticmethod
    def shape(grant: Grant) -> Any:
        kind = grant.kind
        if kind is not GrantKind.GRANTED:
            return kind.value, grant.unsent
        return kind.value, grant.generation, grant.attempt, grant.lost, grant.data, grant.state.value

    async def settle(self, index: int, kind: OutcomeKind, **fields: Any) -> Any:
        picked = self.pick(index)
        if picked is None:
            return None
        hold, grant, delivery = picked
        self.holds.remove(picked)
        counts = [] if kind is OutcomeKind.HANDBACK else [("received", 1), ("seconds", 0.25)]
        body = f"body of {hold.event_id}".encode()
        outcome = Outcome(hold.group, hold.event_id, hold.token, kind, body=body, counts=counts, **fields)
        outcome.data = outcome.data or f'{{"n":{grant.attempt}}}'.encode()
        accepted = await self.store.settle([outcome])
        self.settled.append(outcome)
        if delivery is not None and kind is OutcomeKind.HANDBACK:
            await self.bus.give_back([delivery])
        elif delivery is not None:
            await self.bus.ack([delivery])
        return accepted

    async def do_complete(self, index: int) -> Any:
        picked = self.pick(index)
        event_id = "" if picked is None else picked[0].event_id
        follow = Deferred(Outgoing("next", f"follow-up of {event_id}", b"{}"))
        return await self.settle(index, OutcomeKind.FINAL, result=b"[1e22,-0.0]", outbox=[follow])

    async def do_fail(self, index: int, delay: float) -> Any:
        picked = self.pick(index)
        attempt = 1 if picked is None else picked[1].attempt + 1
        return await self.settle(index, OutcomeKind.RETRY, attempt=attempt, delay=delay)

    async def do_retry_after(self, index: int, delay: float) -> Any:
        picked = self.pick(index)
        return await self.settle(
            index, OutcomeKind.RETRY, attempt=1 if picked is None else picked[1].attempt, delay=delay
        )

    async def do_dead(self, index: int) -> Any:
        return await self.settle(index, OutcomeKind.FINAL, state=TaskState.FAILED, dead="max_attempts")

    async def do_ask(self, index: int) -> Any:
        return await self.settle(index, OutcomeKind.WAIT, question="ok?")

    async def do_hand_back(self, index: int) -> Any:
        return await self.settle(index, OutcomeKind.HANDBACK)

    async def do_repeat_settle(self, index: int) -> Any:
        if not self.settled:
            return None
        return await self.store.settle([self.settled[index % len(self.settled)]])

    async def do_crash(self, index: int) -> Any:
        """The owner vanishes: its claim runs out and the bus delivers again."""
        picked = self.pick(index)
        if picked is None:
            return None
        self.holds.remove(picked)
        hold, _, delivery = picked
        answer = await self.store.renew([Hold(hold.group, hold.event_id, hold.token, OVER)])
        if delivery is not None:
            await self.bus.give_back([delivery])
        await asyncio.sleep(OVER * 3)
        return answer

    async def do_adopt(self, index: int) -> Any:
        picked = self.pick(index)
        if picked is None:
            return None
        hold, grant, delivery = picked
        item = Adoption(hold.group, hold.event_id, f"body of {hold.event_id}".encode(), hold.token)
        answer = await self.store.adopt([item])
        if delivery is not None and answer[0]:
            await self.bus.ack([delivery])
            self.holds[self.holds.index(picked)] = (hold, grant, None)
        return answer

    async def do_renew(self, lease: float) -> Any:
        answers = []
        for hold, _, _ in self.holds:
            answers += await self.store.renew([Hold(hold.group, hold.event_id, hold.token, lease)])
            await asyncio.sleep(TICK if lease == OVER else 0)
        if lease == OVER:
            await asyncio.sleep(OVER * 3)
        return answers

    async def do_due(self, limit: int, lease: float, alone: bool) -> Any:
        call = self.token()
        if lease == OVER:
            limit = 1  # leases that end together would be taken over in any order
        want = {self.group: DueWant(limit, lease, alone=alone)}
        due = await self.store.due("worker", call, want)
        again = await self.store.due("worker", call, want) if lease == FAR else due
        grants = due.grants.get(self.group, [])
        self.holds.extend((Hold(self.group, grant.event_id, grant.token, FAR), grant, None) for grant in grants)
        if lease == OVER:
            await asyncio.sleep(OVER * 3)
        first = sorted((grant.event_id, grant.body, self.shape(grant)) for grant in grants)
        second = sorted((grant.event_id, grant.body, self.shape(grant)) for grant in again.grants.get(self.group, []))
        return first, second, bool(due.suspects)

    async def decide(self, verb: Any, event: str, **fields: Any) -> Any:
        decision = Decision(verb, self.group, event, self.token(), **fields)
        return await self.store.decide(decision), await self.store.decide(decision)

    async def do_cancel(self, event: str) -> Any:
        return await self.decide("cancel", event)

    async def do_answer(self, event: str) -> Any:
        return await self.decide("answer", event, question="ok?", value=b"true")

    async def do_replay(self, event: str) -> Any:
        return await self.decide("replay", event)

    async def do_rerun(self, event: str) -> Any:
        return await self.decide("rerun", event, body=f"body of {event}".encode())

    async def do_pause(self, on: bool) -> Any:
        answer = await self.store.put("control", [Put("pause", b"1" if on else None), Put("version", b"x")])
        found = await self.store.get("control", ["pause", "version"])
        return answer, [None if item is None else (item.value, item.version) for item in found]

    async def do_progress(self, index: int) -> Any:
        picked = self.pick(index)
        if picked is None:
            return None
        hold = picked[0]
        answer = await self.store.append(hold, [b"one", b"two"], FAR)
        return answer, await self.store.follow("work", "agent", hold.event_id, 0, 100)

    async def do_note(self, index: int) -> Any:
        picked = self.pick(index)
        if picked is None:
            return None
        hold = picked[0]
        return await self.store.note(hold, "step:a", b"1"), sorted(
            (await self.store.notes(self.group, hold.event_id)).items()
        )

    async def do_defer(self, event: str) -> Any:
        return await self.store.defer([Deferred(Outgoing("later", event, b"{}"), deliver_at=FAR * 1e6)])

    async def do_relay(self) -> Any:
        rows, _ = await self.store.outbox("worker", 100, FAR)
        await self.store.sent(rows)
        return sorted(row.id for row in rows)

    async def do_clear(self) -> Any:
        return await self.store.remove(Query(dead=False))

    async def do_look(self) -> Any:
        page = await self.store.records(Query(topic="work"), None, 3)
        items = page.items
        while page.cursor is not None:
            page = await self.store.records(Query(topic="work"), page.cursor, 3)
            items = items + page.items
        shown = sorted(
            (
                item.event_id,
                item.state.value,
                item.generation,
                item.attempt,
                item.starts,
                item.lost,
                item.dead,
                item.question,
                item.data,
                item.result,
            )
            for item in items
        )
        metrics = [(row.topic, row.agent, sorted(row.counts.items())) for row in await self.store.metrics()]
        return repr(shown), await self.store.count(self.group), metrics


@asynccontextmanager
async def opened(pair: Pair) -> AsyncIterator[Pair]:
    bus, store = pair
    await bus.open()
    await store.open()
    try:
        yield bus, store
    finally:
        await bus.close()
        await store.close()


async def play(pair: Pair, history: list[Operation]) -> list[Any]:
    async with opened(pair) as (bus, store):
        return await History(bus, store).run(history)


def compare(make: Callable[[], Pair], history: list[Operation]) -> None:
    expected = asyncio.run(play((MemoryEventBus(lease=FAR), MemoryStore()), history))
    actual = asyncio.run(play(make(), history))
    for number, (ours, theirs) in enumerate(zip(expected, actual, strict=True)):
        assert theirs == ours, f"step {number} of {len(history)} differs from the memory adapters"


def histories(function: Callable[..., None]) -> Callable[..., None]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    wrapped = given(history=st.lists(operations, min_size=30, max_size=60))(function)
    return settings(max_examples=200, deadline=None, suppress_health_check=checks, derandomize=True, database=None)(
        wrapped
    )


def from_settings(kind: Any, **given_settings: Any) -> Any:
    base = {"url": None, "namespace": "omni", "connect_timeout": 5.0, "retention": FAR, "topic_max_bytes": None}
    return kind.from_settings({**base, "metrics_ttl": FAR, "lease": FAR, "environ": {}, **given_settings})


@histories
def test_memory_gives_the_same_answers_twice(history: list[Operation]) -> None:
    compare(lambda: (MemoryEventBus(lease=FAR), MemoryStore()), history)


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("property") / "omnidaemon.db"


@histories
def test_sqlite_answers_as_memory_does(sqlite_file: Path, history: list[Operation]) -> None:
    from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore

    space = {"namespace": f"p{secrets.token_hex(6)}", "url": f"sqlite:///{sqlite_file}"}
    compare(lambda: (from_settings(SQLiteEventBus, **space), from_settings(SQLiteStore, **space)), history)


@pytest.mark.redis
@histories
def test_redis_answers_as_memory_does(redis_url: str, history: list[Operation]) -> None:
    from omnidaemon_redis import RedisEventBus, RedisStore

    space = {"namespace": f"p{secrets.token_hex(6)}", "url": redis_url}
    compare(lambda: (from_settings(RedisEventBus, **space), from_settings(RedisStore, **space)), history)
