"""Random calls of every method of the store: Redis must answer as the memory store, the reference, does.

Leases, delays and TTLs are either over at once or far away, so that two clocks cannot disagree.
"""

import asyncio
import dataclasses
import random

import pytest

from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    DueWant,
    GrantKind,
    Hold,
    Outcome,
    OutcomeKind,
    Outgoing,
    TaskState,
)
from omnidaemon.ports.store import Decision, Put, Query
from omnidaemon_memory import MemoryStore
from omnidaemon_redis import RedisStore

FAR = 3600.0
TOPICS = ("orders", "a.b")
AGENTS = ("first", "second")
EVENTS = ("e1", "e2", "e3", "käse", "e5")
# An event's lane is part of the event, so it is always the same.
LANES = {"e1": "k:x", "e2": "k:x", "e3": "s:y", "käse": "k:x", "e5": None}
FINAL = (TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED, TaskState.CANCELED)


class Pair:
    """The same calls on both stores; tokens are told apart, as numbers may differ."""

    def __init__(self, memory, redis, rng):
        self.stores, self.rng = (memory, redis), rng
        self.rows, self.holds, self.spent, self.log, self.counter = {}, [], [], [], 0

    def name(self, prefix):
        self.counter += 1
        return f"{prefix}{self.counter}"

    async def both(self, method, *args, compare=lambda answer: answer, **kwargs):
        await asyncio.sleep(0.0012)
        self.log.append((method, args, kwargs))
        answers = [await getattr(store, method)(*args, **kwargs) for store in self.stores]
        wanted, got = (compare(answer) for answer in answers)
        assert got == wanted, f"{method}{args}{kwargs}: {got} instead of {wanted}\n" + self.history()
        return answers

    def history(self):
        return "\n".join(map(str, self.log[-40:]))

    def group(self):
        row = self.rng.choice(list(self.rows.values()))
        group = row.group
        return group._replace(epoch=max(1, group.epoch - 1)) if self.rng.random() < 0.05 else group

    def hold(self):
        if self.holds and self.rng.random() < 0.9:
            return self.rng.choice(self.holds[-12:])
        return Hold(self.group(), self.rng.choice(EVENTS), "nobody")

    async def enroll(self):
        topic, agent = self.rng.choice(TOPICS), self.rng.choice(AGENTS)
        data = self.name("data").encode()
        answers = await self.both("enroll", topic, agent, data, compare=lambda a: (a[0].group, a[0].data, a[1]))
        self.rows[topic, agent] = answers[0][0]

    async def retire(self):
        (topic, agent), rng = self.rng.choice(list(self.rows)), self.rng
        await self.both("retire", topic, agent, group=rng.random() < 0.6, dead_letters=rng.random() < 0.5)
        if rng.random() < 0.8:
            answers = await self.both("enroll", topic, agent, b"", compare=lambda a: (a[0].group, a[1]))
            self.rows[topic, agent] = answers[0][0]

    async def claim(self):
        rng = self.rng
        asks = []
        for event_id in rng.sample(EVENTS, rng.randint(1, 3)):
            lane = LANES[event_id] if rng.random() < 0.9 else None
            after = rng.choice(same_lane(event_id)) if lane and rng.random() < 0.4 else None
            lease = rng.choice((FAR, FAR, 0.0))
            position = rng.choice(("", f"{rng.randint(1, 9)}-{rng.randint(0, 3)}"))
            tenant = rng.choice((None, None, "acme"))
            token, group = self.name("t"), self.group()
            for hold in self.holds:
                # The same claim again, as after a lost reply.
                again = hold.token.startswith("t") and (hold.group, hold.event_id) == (group, event_id)
                if again and rng.random() < 0.1:
                    token = hold.token
            asks.append(Ask(group, event_id, token, lease, lane, after, tenant, rng.random() < 0.8, position))
        answers = await self.both("claim", "worker", asks, compare=lambda grants: [plain(grant) for grant in grants])
        for ask, grant in zip(asks, answers[0], strict=True):
            if grant.kind is GrantKind.GRANTED:
                self.holds.append(Hold(ask.group, ask.event_id, grant.token, FAR))

    async def due(self):
        rng = self.rng
        want = {
            row.group: DueWant(rng.choice((0, 50, 50)), rng.choice((FAR, 0.0)), rng.random() < 0.3, rng.random() < 0.8)
            for row in self.rows.values()
        }
        call = self.name("call")

        def compare(due):
            grants = {group: {grant.event_id: plain(grant) for grant in found} for group, found in due.grants.items()}
            return grants, due.suspects, due.next_in is None, (due.next_in or 0) < 1

        answers = await self.both("due", "worker", call, want, compare=compare)
        if rng.random() < 0.2:
            # Repeated, as after a lost reply.
            answers = await self.both("due", "worker", call, want, compare=compare)
        for group, found in answers[0].grants.items():
            others = {grant.event_id: grant.token for grant in answers[1].grants[group]}
            for grant in found:
                # Ties in time may be numbered differently: such a run is settled by nobody here.
                if others[grant.event_id] == grant.token:
                    self.holds.append(Hold(group, grant.event_id, grant.token, FAR))

    async def renew(self):
        holds = [dataclasses.replace(self.hold(), lease=self.rng.choice((FAR, 0.0))) for _ in range(3)]
        await self.both("renew", holds)

    async def adopt(self):
        rng, hold = self.rng, self.hold()
        items = [
            Adoption(hold.group, hold.event_id, self.name("body").encode(), hold.token, delay=rng.choice((0.0, FAR)))
        ]
        if rng.random() < 0.6:
            event_id, delay = rng.choice(EVENTS), rng.choice((0.0, FAR))
            items = [
                Adoption(self.group(), event_id, b"raw\x00\xff", None, LANES[event_id], None, "acme", delay, "5-1")
            ]
        await self.both("adopt", items)

    async def settle(self):
        rng = self.rng
        outcomes = []
        for hold in {(h.group, h.event_id): h for h in (self.hold() for _ in range(rng.randint(1, 4)))}.values():
            kind = rng.choice((OutcomeKind.FINAL,) * 5 + tuple(OutcomeKind))
            dead = "max_attempts" if kind is OutcomeKind.FINAL and rng.random() < 0.3 else None
            ttl = rng.choice((FAR, FAR, 2 * FAR, 0.0))
            outcomes.append(
                Outcome(
                    hold.group,
                    hold.event_id,
                    hold.token,
                    kind,
                    TaskState.FAILED if dead else rng.choice(FINAL),
                    data=rng.choice((b"", b'{"a": 1}')),
                    result=rng.choice((None, b"", b'[1e22, -0.0, "\\u0001"]')),
                    body=rng.choice((None, b"body\x00\xff")),
                    attempt=rng.randint(1, 4),
                    delay=rng.choice((None, 0.0, FAR)),
                    question=rng.choice((None, "q1")),
                    dead=dead,
                    ttl=ttl,
                    mark_ttl=rng.choice((FAR, FAR, 0.0)),
                    outbox=[
                        Deferred(
                            Outgoing("later", self.name("f"), b"x", rng.choice((None, "k"))), rng.choice((0.0, FAR))
                        )
                    ]
                    if rng.random() < 0.2
                    else (),
                    counts=[("n", 1), ("seconds", 0.25), (f"b:{rng.randint(0, 3)}", rng.choice((1, 0)))],
                    tenant=rng.choice((None, "acme", "")),
                )
            )
        if self.spent and rng.random() < 0.3:
            outcomes.append(rng.choice(self.spent))
        await self.both("settle", outcomes)
        self.spent.extend(outcomes)

    async def decide(self):
        rng = self.rng
        verb = rng.choice(("cancel", "answer", "replay", "rerun"))
        op = self.name("op") if rng.random() < 0.9 else "op1"
        event_id = rng.choice(EVENTS)
        decision = Decision(
            verb,
            self.group(),
            event_id,
            op,
            question=rng.choice((None, "q1")),
            value=b"yes",
            body=b"again",
            data=b'{"why": 1}',
            lane=LANES[event_id],
            tenant=rng.choice((None, "acme")),
            ttl=rng.choice((FAR, 0.0)),
        )
        await self.both("decide", decision)

    async def progress(self):
        chunks = [self.name("chunk").encode() for _ in range(self.rng.randint(0, 3))]
        hold = self.hold()
        await self.both("append", hold, chunks, FAR)
        topic, agent, _ = hold.group
        await self.both("follow", topic, agent, hold.event_id, self.rng.randint(0, 3), self.rng.randint(1, 5))

    async def note(self):
        hold = self.hold()
        await self.both("note", hold, self.rng.choice(("fetch", "k\x00ey")), self.name("v").encode())
        await self.both("notes", hold.group, self.rng.choice((hold.event_id, *EVENTS)))

    async def outbox(self):
        rng = self.rng
        if rng.random() < 0.5:
            rows = [
                Deferred(
                    Outgoing("later", f"d{rng.randint(1, 6)}", b"x"), rng.choice((0.0, FAR)), rng.choice((None, 1.5))
                )
            ]
            await self.both("defer", rows)
        lease = rng.choice((0.0, FAR))
        answers = await self.both(
            "outbox", "worker", 100, lease, compare=lambda a: (sorted(a[0], key=lambda row: row.id), a[1] is None)
        )
        if rng.random() < 0.6:
            await self.both("sent", answers[0][0][: rng.randint(0, 3)])

    async def look(self):
        rng = self.rng
        query = self.query()
        compare = lambda page: sorted(map(record, page.items), key=str)  # noqa: E731
        await self.both("records", query, None, 1000, compare=compare)
        for group in {row.group for row in self.rows.values()}:
            await self.both("count", group)
        await self.both("metrics", compare=sums)
        await self.both("metrics", None, rng.choice((None, *AGENTS)), 0.0, compare=sums)
        await self.both("agents", compare=lambda rows: [(row.group, row.deleted, row.data) for row in rows])

    def query(self):
        rng = self.rng
        return Query(
            topic=rng.choice((None, *TOPICS)),
            agent=rng.choice((None, *AGENTS)),
            event_ids=rng.choice((None, None, list(EVENTS[:2]), ["e1", "none"])),
            states=rng.choice((None, None, [TaskState.COMPLETED], [TaskState.WORKING, TaskState.SUBMITTED])),
            dead=rng.choice((None, None, True, False)),
            tenant=rng.choice((None, None, "acme")),
        )

    async def pages(self):
        for store in self.stores:
            seen, cursor = [], None
            while True:
                page = await store.records(Query(), cursor, self.rng.randint(1, 3))
                seen += [(item.updated, item.event_id, item.group) for item in page.items]
                cursor = page.cursor
                if cursor is None:
                    break
            assert len(set(seen)) == len(seen)
            assert [item[0] for item in seen] == sorted((item[0] for item in seen), reverse=True)
            whole = await store.records(Query(), None, 1000)
            assert {item[1:] for item in seen} == {(item.event_id, item.group) for item in whole.items}

    async def remove(self):
        if self.rng.random() < 0.3:
            await self.both("remove", self.query())
        await self.both("forget", self.group(), self.rng.choice((0.0, 10**10)))

    async def values(self):
        rng = self.rng
        keys = ("a", "b", "c d", "ä", "e\x00f")
        items = [
            Put(
                rng.choice(keys),
                rng.choice((None, b"", b"v\x00\xff")),
                rng.choice((None, FAR, 0.0)),
                rng.choice((None, 0, 1, 2)),
            )
            for _ in range(rng.randint(1, 3))
        ]
        ns = rng.choice(("control", "x:y"))
        await self.both("put", ns, items)
        await self.both("get", ns, keys)
        await self.both("scan", ns, rng.choice((None, "b")), rng.randint(1, 5))


def same_lane(event_id):
    return [other for other in EVENTS if LANES[other] == LANES[event_id] and other != event_id] or [None]


def plain(grant):
    return dataclasses.replace(grant, token="")


def record(item):
    fields = dataclasses.asdict(item)
    for name in ("created", "updated", "expires", "due"):
        fields[name] = fields[name] is None
    fields.pop("answers")
    return fields


def sums(rows):
    return sorted((row.topic, row.agent, sorted(row.counts.items())) for row in rows)


OPERATIONS = (
    ["claim"] * 6 + ["settle"] * 6 + ["due"] * 4 + ["adopt"] * 3 + ["decide"] * 3 + ["renew", "progress", "note", "outbox"]
    + ["look"] * 2 + ["pages", "remove", "values", "enroll", "retire"]
)  # fmt: skip


async def play(url, namespace, seed, steps):
    memory, redis = MemoryStore(), RedisStore(url, namespace=namespace)
    await memory.open()
    await redis.open()
    pair = Pair(memory, redis, random.Random(seed))
    try:
        for _ in range(3):
            await pair.enroll()
        for _ in range(steps):
            await getattr(pair, pair.rng.choice(OPERATIONS))()
        await pair.look()
    finally:
        await redis.close()


@pytest.mark.parametrize("seed", range(40))
def test_random_calls_are_answered_alike(redis_url, unique_prefix, seed):
    asyncio.run(play(redis_url, unique_prefix, seed, 60))
