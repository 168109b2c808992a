"""Bus and store on one Redis: reading is claiming, settling is acknowledging."""

import asyncio
import contextlib
import itertools

import pytest
import redis

from omnidaemon.model.errors import BackendError
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
    Start,
    TaskState,
)
from omnidaemon.ports.store import Decision, Query
from omnidaemon_redis import RedisEventBus, RedisStore

LEASE = 0.25
LONG = 60.0


class Worker:
    """One process as the runtime sees it: bus, store, fusion and a name."""

    numbers = itertools.count()

    def __init__(self, url, namespace, lease=LONG):
        self.bus = RedisEventBus(url, namespace=namespace, lease=lease)
        self.store = RedisStore(url, namespace=namespace)
        self.name = f"worker-{next(self.numbers)}"
        self.lease = lease

    async def open(self, *agents, topic="orders", start="beginning"):
        await self.bus.open()
        await self.store.open()
        self.fusion = self.store.fuse(self.bus)
        self.groups = []
        for agent in agents:
            row, _ = await self.store.enroll(topic, agent, b"{}")
            await self.bus.ensure(topic, {row.group: Start(start)})
            self.groups.append(row.group)
        return self

    async def close(self):
        await self.bus.close()
        await self.store.close()

    async def take(self, limit=10, wait=0.5, call=None, lease=None, **options):
        call = call or f"{self.name}.{next(self.numbers)}"
        want = {group: DueWant(limit, lease or self.lease, **options) for group in self.groups}
        return await self.fusion.take(self.name, call, want, wait)

    async def due(self, limit=10, **options):
        call = f"{self.name}.{next(self.numbers)}"
        want = {group: DueWant(limit, self.lease, **options) for group in self.groups}
        return await self.store.due(self.name, call, want)


def outcome(pair, kind=OutcomeKind.FINAL, **fields):
    delivery, grant = pair
    fields = {"data": b'{"took":1}', "result": b'"ok"', "body": delivery.body, "counts": [("processed", 1)], **fields}
    return Outcome(delivery.group, delivery.id, grant.token, kind, delivery=delivery, **fields)


def event(event_id, key=None, topic="orders", body=None):
    return Outgoing(topic, event_id, body or b'{"id":"%b"}' % event_id.encode(), key)


@pytest.fixture
def scene(redis_url, unique_prefix):
    """Run a coroutine function with a factory of workers of one namespace."""

    def run(test):
        async def main():
            async with contextlib.AsyncExitStack() as stack:

                async def worker(*agents, lease=LONG, **options):
                    made = await Worker(redis_url, unique_prefix, lease).open(*(agents or ("summarise",)), **options)
                    stack.push_async_callback(made.close)
                    return made

                await test(worker)

        asyncio.run(main())

    return run


def ids(pairs):
    return [delivery.id for delivery, _ in pairs]


def kinds(pairs):
    return {delivery.id: grant.kind.value for delivery, grant in pairs}


async def settle_all(worker, pairs):
    assert all(await worker.store.settle([outcome(pair) for pair in pairs]))


def test_an_event_is_taken_settled_and_kept(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event("e1"), event("e2")], 5)
        pairs = await one.take()
        assert ids(pairs) == ["e1", "e2"]
        assert {grant.token for _, grant in pairs} != {""}
        assert (await one.store.count(one.groups[0]))["working"] == 2
        assert (await one.bus.info("orders")).groups[0].pending.value == 2
        outcomes = [outcome(pair, tenant="acme") for pair in pairs]
        assert await one.store.settle(outcomes) == [True, True]
        assert await one.store.settle(outcomes) == [True, True]
        page = await one.store.records(Query())
        assert {(r.event_id, r.state, r.result, r.body, r.tenant, r.attempt, r.starts) for r in page.items} == {
            (name, TaskState.COMPLETED, b'"ok"', b'{"id":"%b"}' % name.encode(), "acme", 1, 1) for name in ("e1", "e2")
        }
        assert all(r.created <= r.updated < r.expires for r in page.items)
        found = await one.store.records(Query(event_ids=["e2"]))
        assert [r.event_id for r in found.items] == ["e2"]
        info = await one.bus.info("orders")
        assert (info.groups[0].pending.value, info.groups[0].lag.value, info.groups[0].oldest) == (0, 0, None)
        counts = (await one.store.metrics())[0].counts
        assert counts["processed"] == 2
        assert await one.take(wait=0) == []
        assert (await one.store.count(one.groups[0])) == {"inbox": 0, "working": 0, "waiting": 0, "dead_letters": 0}

    scene(test)


def test_a_call_that_is_made_again_gives_the_same(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event("e1"), event("e2", "k:a"), event("e3"), event("e4")], 5)
        first = await one.take(limit=3, call="c1")
        again = await one.take(limit=3, call="c1")
        assert sorted(ids(again)) == sorted(ids(first)) == ["e1", "e2", "e3"]
        assert {d.id: g.token for d, g in again} == {d.id: g.token for d, g in first}
        assert {d.id: d.body for d, _ in again} == {d.id: d.body for d, _ in first}
        await settle_all(one, again)
        assert ids(await one.take(call="c2")) == ["e4"]

    scene(test)


def test_a_dead_workers_events_are_taken_over(scene):
    async def test(worker):
        one, two = await worker(lease=LEASE), await worker(lease=LEASE)
        await one.bus.publish([event("e1"), event("e2", "k:a")], 5)
        lost = await one.take()
        assert sorted(ids(lost)) == ["e1", "e2"]
        assert await two.take(wait=0) == []
        found = []
        while len(found) < 2:
            found += await two.take(wait=2.0, lease=LONG)
        assert sorted(ids(found)) == ["e1", "e2"]
        assert all(grant.lost == 1 and grant.kind is GrantKind.GRANTED for _, grant in found)
        assert {delivery.body for delivery, _ in found} == {b'{"id":"e1"}', b'{"id":"e2"}'}
        assert await one.store.settle([outcome(pair) for pair in lost]) == [False, False]
        await settle_all(two, found)
        assert (await two.bus.info("orders")).groups[0].pending.value == 0
        records = (await two.store.records(Query())).items
        assert {(r.starts, r.lost) for r in records} == {(2, 1)}

    scene(test)


def test_live_claims_are_left_alone(scene):
    async def test(worker):
        one, two = await worker(lease=LEASE), await worker(lease=LEASE)
        await one.bus.publish([event("e1"), event("e2", "k:a")], 5)
        pairs = await one.take()
        for _ in range(6):
            await asyncio.sleep(LEASE / 3)
            assert all(await one.store.renew([Hold(d.group, d.id, g.token, LEASE) for d, g in pairs]))
            assert await two.take(wait=0.0) == []
        await settle_all(one, pairs)
        assert await two.take(wait=2 * LEASE) == []

    scene(test)


def test_without_leave_nothing_is_taken_over(scene):
    async def test(worker):
        one, two = await worker(lease=LEASE), await worker(lease=LEASE)
        await one.bus.publish([event("e1"), event("e2", "k:a")], 5)
        await one.take()
        await asyncio.sleep(2 * LEASE)
        assert await two.take(wait=2 * LEASE, takeover=False) == []

    scene(test)


def test_what_is_handed_back_comes_again_at_once_and_uncounted(scene):
    async def test(worker):
        one, two = await worker(), await worker()
        await one.bus.publish([event("e1"), event("e2"), event("e3", "k:a")], 5)
        pairs = await one.take()
        waiting = asyncio.ensure_future(two.take(wait=5.0))
        await asyncio.sleep(0.1)
        outcomes = [outcome(pair, OutcomeKind.HANDBACK, body=None, counts=()) for pair in pairs]
        assert all(await one.store.settle(outcomes))
        await one.bus.give_back([delivery for delivery, _ in pairs])
        found = await asyncio.wait_for(waiting, 2)
        while len(found) < 3:
            found += await two.take(wait=2.0)
        assert sorted(ids(found)) == ["e1", "e2", "e3"]
        assert {(grant.attempt, grant.lost) for _, grant in found} == {(1, 0)}
        await settle_all(two, found)
        assert {r.starts for r in (await two.store.records(Query())).items} == {1}
        assert (await two.bus.info("orders")).groups[0].pending.value == 0

    scene(test)


def test_one_key_runs_in_order_over_two_workers(scene):
    async def test(worker):
        one, two = await worker(), await worker()
        await one.bus.publish([event(f"e{number}", "k:a") for number in range(4)] + [event("free")], 5)
        first = await one.take(limit=1)
        rest = await two.take(limit=10)
        assert kinds(first) == {"e0": "granted"}
        assert kinds(rest) == {"e1": "behind", "e2": "behind", "e3": "behind", "free": "granted"}
        waiting = [delivery for delivery, grant in rest if grant.kind is GrantKind.BEHIND]
        items = [Adoption(d.group, d.id, d.body, None, d.key, d.after, None, position=d.position) for d in waiting]
        assert all(await two.store.adopt(items))
        await two.bus.ack(waiting)
        order = ["e0"]
        await settle_all(one, first)
        for _ in range(3):
            due = await two.due()
            (grant,) = due.grants[two.groups[0]]
            order.append(grant.event_id)
            done = Outcome(two.groups[0], grant.event_id, grant.token, OutcomeKind.FINAL)
            assert await two.store.settle([done]) == [True]
        assert order == ["e0", "e1", "e2", "e3"]

    scene(test)


def test_a_long_run_is_taken_over_by_the_inbox(scene):
    async def test(worker):
        one, two = await worker(lease=LEASE), await worker(lease=LEASE)
        await one.bus.publish([event("e1")], 5)
        ((delivery, grant),) = await one.take()
        item = Adoption(delivery.group, delivery.id, delivery.body, grant.token)
        assert await one.store.adopt([item]) == [True]
        await one.bus.ack([delivery])
        assert (await one.bus.info("orders")).groups[0].pending.value == 0
        await asyncio.sleep(LEASE * 1.5)
        assert await two.take(wait=0.0) == []
        due = await two.due()
        assert [(g.event_id, g.lost, g.body) for g in due.grants[two.groups[0]]] == [("e1", 1, delivery.body)]
        assert await one.store.settle([outcome((delivery, grant))]) == [False]

    scene(test)


def test_duplicates_meet_the_claim_and_the_mark(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event("e1"), event("e1")], 5)
        pairs = await one.take()
        assert [grant.kind.value for _, grant in pairs] == ["granted", "busy"]
        await settle_all(one, pairs[:1])
        await one.bus.ack([pairs[1][0]])
        await one.bus.publish([event("e1")], 5)
        pairs = await one.take()
        assert kinds(pairs) == {"e1": "finished"}
        assert await one.store.remove(Query()) == 1
        await one.bus.publish([event("e1")], 5)
        assert kinds(await one.take()) == {"e1": "finished"}
        assert (await one.store.records(Query())).items == []

    scene(test)


def test_marks_and_decisions_are_obeyed(scene):
    async def test(worker):
        one = await worker()
        group = one.groups[0]
        assert await one.store.decide(Decision("cancel", group, "e1", "op1")) == "done"
        await one.bus.publish([event("e1"), event("e2")], 5)
        pairs = await one.take()
        assert kinds(pairs) == {"e1": "canceled", "e2": "granted"}
        assert await one.store.decide(Decision("cancel", group, "e2", "op2")) == "done"
        assert await one.store.settle([outcome(pairs[-1])]) == [False]
        states = {r.event_id: r.state.value for r in (await one.store.records(Query())).items}
        assert states == {"e1": "canceled", "e2": "canceled"}

    scene(test)


def test_a_retry_goes_to_the_inbox_and_a_follow_up_to_the_outbox(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event("e1"), event("e2"), event("e3")], 5)
        pairs = await one.take()
        retry = outcome(pairs[0], OutcomeKind.RETRY, attempt=2, delay=0.0, result=None)
        follow = outcome(pairs[1], outbox=[Deferred(Outgoing("later", "f1", b"x"))])
        dead = outcome(pairs[2], state=TaskState.FAILED, dead="max_attempts", result=None)
        assert await one.store.settle([retry, follow, dead]) == [True] * 3
        assert (await one.bus.info("orders")).groups[0].pending.value == 0
        due = (await one.due()).grants[one.groups[0]]
        assert [(g.event_id, g.attempt, g.body, g.data) for g in due] == [("e1", 2, b'{"id":"e1"}', b'{"took":1}')]
        counts = await one.store.count(one.groups[0])
        assert counts == {"inbox": 1, "working": 1, "waiting": 0, "dead_letters": 1}
        letters = (await one.store.records(Query(dead=True))).items
        assert [(r.event_id, r.body, r.expires) for r in letters] == [("e3", b'{"id":"e3"}', None)]
        await one.bus.publish([event("e2")], 5)
        ((_, grant),) = await one.take()
        assert (grant.kind, grant.unsent) == (GrantKind.FINISHED, True)

    scene(test)


def test_steps_and_progress_of_a_fast_claim(scene):
    async def test(worker):
        one, two = await worker(lease=LEASE), await worker(lease=LEASE)
        await one.bus.publish([event("e1")], 5)
        ((delivery, grant),) = await one.take()
        hold = Hold(delivery.group, delivery.id, grant.token, LEASE)
        assert await one.store.note(hold, "fetch", b"1")
        assert await one.store.append(hold, [b"a", b"b"], 60)
        found = []
        while not found:
            found = await two.take(wait=1.0, lease=LONG)
        assert (found[0][1].lost, found[0][0].body) == (1, delivery.body)
        assert await two.store.notes(delivery.group, "e1") == {"fetch": b"1"}
        await settle_all(two, found)
        assert await two.store.notes(delivery.group, "e1") == {"fetch": b"1"}
        assert await two.store.follow("orders", "summarise", "e1", 0, 10) == [(1, b"a"), (2, b"b")]
        assert (await two.bus.info("orders")).groups[0].pending.value == 0

    scene(test)


def test_trimming_spares_what_is_claimed(scene):
    async def test(worker):
        one = await worker(lease=LEASE)
        await one.bus.publish([event(f"e{number}") for number in range(4)], 5)
        pairs = await one.take()
        await settle_all(one, [pairs[0], pairs[2]])
        far = await one.store.now() + 3600
        assert await one.bus.trim("orders", far) == 1
        assert (await one.bus.info("orders")).groups[0].oldest is not None
        await asyncio.sleep(LEASE * 1.2)
        found = []
        while len(found) < 2:
            found += await one.take(wait=1.0, lease=LONG)
        assert sorted(ids(found)) == ["e1", "e3"]
        await settle_all(one, found)
        assert await one.bus.trim("orders", far) == 3

    scene(test)


def test_a_record_outlives_its_event_when_retention_is_short(redis_url, unique_prefix):
    async def main():
        one = Worker(redis_url, unique_prefix)
        one.store = RedisStore.from_settings({"url": redis_url, "namespace": unique_prefix, "retention": 1.0})
        await one.open("summarise")
        await one.bus.publish([event("e1")], 5)
        await settle_all(one, await one.take())
        assert await one.bus.trim("orders", await one.store.now() + 60) == 1
        (record,) = (await one.store.records(Query())).items
        assert record.body == b'{"id":"e1"}'
        await one.close()

    asyncio.run(main())


def test_entries_of_others_become_events(scene, redis_url, unique_prefix):
    async def test(worker):
        one = await worker()
        client = redis.Redis.from_url(redis_url)
        stream = f"{{{unique_prefix}:orders}}s"
        places = [
            client.xadd(stream, {"data": b"\x00\xff raw"}),
            client.xadd(stream, {"i": b"\xff\xfe", "b": b"bad id"}),
            client.xadd(stream, {"b": b"x", "i": "späte-id"}),
            client.xadd(stream, {"one": "1", "two": "2"}),
            client.xadd(stream, {"i": "with\ncontrol", "b": b"y"}),
        ]
        client.close()
        pairs = await one.take()
        places = [place.decode() for place in places]
        assert [(d.id, d.body) for d, _ in pairs] == [
            (f"orders@{places[0]}", b"\x00\xff raw"),
            (f"orders@{places[1]}", b"bad id"),
            ("späte-id", b"x"),
            (f"orders@{places[3]}", b"one 1 two 2"),
            (f"orders@{places[4]}", b"y"),
        ]
        await settle_all(one, pairs)
        assert len((await one.store.records(Query())).items) == 5

    scene(test)


def test_a_deleted_agent_gets_nothing_and_a_new_epoch_runs_again(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event("e1"), event("e2")], 5)
        pairs = await one.take()
        await settle_all(one, pairs[:1])
        gone = await one.store.retire("orders", "summarise", group=True, dead_letters=False)
        assert (gone.existed, gone.inbox) == (True, 1)
        assert await one.take(wait=0.05) == []
        assert await one.store.settle([outcome(pairs[1])]) == [False]
        two = await worker()
        assert two.groups[0].epoch == 2
        # The old epoch's record is still there, by its id and in lists, and stops no new run.
        assert [r.event_id for r in (await two.store.records(Query(event_ids=["e1"]))).items] == ["e1"]
        pairs = await two.take()
        assert kinds(pairs) == {"e1": "granted", "e2": "granted"}
        await settle_all(two, pairs)
        records = (await two.store.records(Query())).items
        assert sorted((r.event_id, r.group.epoch) for r in records) == [("e1", 2), ("e2", 2)]

    scene(test)


def test_pages_of_blocks_dead_letters_and_claims_are_one_list(scene):
    async def test(worker):
        one = await worker("a", "b")
        for batch in range(5):
            await one.bus.publish([event(f"e{batch}{number}") for number in range(7)], 5)
            pairs = await one.take(limit=7)
            dead = [pair for pair in pairs if pair[0].id.endswith("3")]
            held = [pair for pair in pairs if pair[0].id.endswith("4")]
            rest = [pair for pair in pairs if pair not in dead and pair not in held]
            await settle_all(one, rest)
            await one.store.settle([outcome(p, state=TaskState.FAILED, dead="timeout") for p in dead])
        whole = (await one.store.records(Query(), None, 1000)).items
        assert len(whole) == 70
        seen, cursor = [], None
        while True:
            page = await one.store.records(Query(), cursor, 3)
            seen += page.items
            cursor = page.cursor
            if cursor is None:
                break
        assert [(r.event_id, r.group) for r in seen] == [(r.event_id, r.group) for r in whole]
        assert [r.updated for r in seen] == sorted((r.updated for r in seen), reverse=True)
        working = await one.store.records(Query(agent="a", states=[TaskState.WORKING]))
        assert {r.event_id for r in working.items} == {f"e{batch}4" for batch in range(5)}
        assert await one.store.remove(Query(agent="a", dead=False)) == 25
        assert await one.store.remove(Query(dead=True)) == 10
        assert len((await one.store.records(Query(agent="a"), None, 1000)).items) == 5
        assert len((await one.store.records(Query(), None, 1000)).items) == 5 + 30

    scene(test)


def test_a_thousand_idle_topics_wake_quickly(redis_url, unique_prefix):
    async def main():
        one = Worker(redis_url, unique_prefix)
        await one.open()
        for number in range(300):
            row, _ = await one.store.enroll(f"topic-{number}", "agent", b"")
            await one.bus.ensure(row.topic, {row.group: Start("beginning")})
            one.groups.append(row.group)
        await one.take(wait=0.0)
        late = []
        for number in (17, 250, 3, 99, 17, 298):
            waiting = asyncio.ensure_future(one.take(wait=5.0))
            await asyncio.sleep(0.3)
            begun = asyncio.get_running_loop().time()
            await one.bus.publish([event(f"e{begun}", topic=f"topic-{number}")], 5)
            pairs = await waiting
            late.append(asyncio.get_running_loop().time() - begun)
            assert [d.group.topic for d, _ in pairs] == [f"topic-{number}"]
            await settle_all(one, pairs)
        assert sorted(late)[len(late) // 2] < 0.05, late
        await one.close()

    asyncio.run(main())


def test_a_cut_connection_loses_nothing(redis_server, unique_prefix):
    """Connections are killed at random while workers take and settle: each event is settled once."""
    url = redis_server().url
    total = 600

    async def kill(until):
        client = redis.asyncio.Redis.from_url(url)
        while not until.is_set():
            await asyncio.sleep(0.02)
            with contextlib.suppress(redis.RedisError):
                await client.client_kill_filter(_type="normal", skipme=True)
        await client.aclose()

    async def insist(call):
        while True:
            try:
                return await call()
            except BackendError:
                await asyncio.sleep(0.005)

    async def work(worker, accepted, done):
        while not done.is_set():
            call = f"{worker.name}.{next(worker.numbers)}"
            pairs = await insist(lambda call=call: worker.take(limit=20, wait=0.0, call=call))
            granted = [pair for pair in pairs if pair[1].kind is GrantKind.GRANTED]
            rest = [delivery for delivery, grant in pairs if grant.kind is not GrantKind.GRANTED]
            assert not rest, kinds(pairs)
            outcomes = [outcome(pair) for pair in granted]
            answers = await insist(lambda outcomes=outcomes: worker.store.settle(outcomes))
            accepted.extend(pair[0].id for pair, ok in zip(granted, answers, strict=True) if ok)
            if len(accepted) >= total:
                done.set()

    async def main():
        workers = [await Worker(url, unique_prefix, lease=5.0).open("summarise") for _ in range(2)]
        names = [f"e{number}" for number in range(total)]
        await workers[0].bus.publish([event(name) for name in names], 30)
        accepted, done, calm = [], asyncio.Event(), asyncio.Event()
        killer = asyncio.ensure_future(kill(calm))
        async with asyncio.timeout(60):
            await asyncio.gather(*(work(worker, accepted, done) for worker in workers))
        calm.set()
        await killer
        assert sorted(accepted) == sorted(names)
        counts = (await insist(lambda: workers[0].store.metrics()))[0].counts
        assert counts["processed"] == total
        assert (await insist(lambda: workers[0].bus.info("orders"))).groups[0].pending.value == 0
        for worker in workers:
            await worker.close()

    asyncio.run(main())


def test_refused_runs_of_a_batch_do_not_hold_up_the_others(scene):
    async def test(worker):
        one = await worker()
        await one.bus.publish([event(f"e{number}") for number in range(5)], 5)
        pairs = await one.take()
        await one.store.decide(Decision("cancel", one.groups[0], "e2", "op"))
        outcomes = [outcome(pair) for pair in pairs]
        outcomes[4].token = "somebody else's"
        assert await one.store.settle(outcomes) == [True, True, False, True, False]
        assert (await one.store.metrics())[0].counts == {"processed": 3, "canceled": 1}
        grants = await one.store.claim(one.name, [Ask(one.groups[0], "e4", "new", 5.0)])
        assert grants[0].kind is GrantKind.BUSY

    scene(test)
