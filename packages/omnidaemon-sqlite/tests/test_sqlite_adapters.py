"""What is SQLite's own: shared transactions, namespaces, fusion; the rules are tested by the contract."""

import asyncio
import dataclasses
import inspect
import threading

import pytest

from omnidaemon.model.errors import BackendUnavailable, Closed, PublishUncertain
from omnidaemon.model.run import (
    Ask,
    Deferred,
    DueWant,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    Outgoing,
    Receipt,
    Start,
    TaskState,
)
from omnidaemon.ports.ledger import RunRow
from omnidaemon.ports.store import Decision, Put, Query
from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore, _runs, _topics, bus, store
from omnidaemon_sqlite._errors import CommitUnknown
from omnidaemon_sqlite._file import OpenFile

BEGINNING, NOW = Start("beginning"), Start("now")
A, B = Group("news", "a", 1), Group("news", "b", 1)


class SetClock:
    """Time passes only when a test says so; waiting takes no time of it."""

    def __init__(self):
        self.at = 1000.0

    def time(self):
        return self.at

    monotonic = time

    async def wait(self, event, timeout):
        until = self.at + timeout
        while not event.is_set() and self.at < until:  # noqa: ASYNC110 - other tasks set the time
            await asyncio.sleep(0)
        return event.is_set()


class Opened:
    """A bus and a store on one file, and their clock."""

    def __init__(self, path, **options):
        self.clock = SetClock()
        self.path = path
        self.bus = SQLiteEventBus(path, clock=self.clock, **options)
        self.store = SQLiteStore(path, clock=self.clock, **options)

    async def __aenter__(self):
        await self.bus.open()
        await self.store.open()
        await self.store.enroll("news", "a", b"{}")
        await self.bus.ensure("news", {A: BEGINNING})
        return self

    async def __aexit__(self, *_):
        await self.store.close()
        await self.bus.close()


def scenario(function):
    """Run an async test with an opened file; no plugin needed."""

    def test(tmp_path):
        async def run():
            async with Opened(tmp_path / "omni.db") as opened:
                await function(opened)

        asyncio.run(run())

    test.__name__ = function.__name__
    return test


def event(number, key=None):
    return Outgoing("news", f"e{number}", b"body %d" % number, key)


def ids(deliveries):
    return [delivery.id for delivery in deliveries]


def final(event_id, token, **fields):
    return Outcome(A, event_id, token, OutcomeKind.FINAL, **fields)


def statements(file, seen):
    """Return a job that notes all statements from now on."""
    return file.read(lambda session: session.connection.set_trace_callback(seen.append))


@scenario
async def test_every_field_of_a_run_is_stored(opened):
    row = RunRow(A, "e1", notes={"step": b"1", "": b""}, body=b"\0body", result=b"", lane="k:1", question="q")
    for field in dataclasses.fields(RunRow):
        if field.default is getattr(row, field.name):
            kind = str(field.type).split(" |")[0]
            values = {"str": field.name, "int": 7, "float": 0.25, "bool": True, "bytes": b"x", "TaskState": "working"}
            setattr(row, field.name, TaskState("working") if kind == "TaskState" else values[kind])
    assert not [field.name for field in dataclasses.fields(RunRow) if field.default == getattr(row, field.name)]
    tables = opened.store.tables
    await opened.store._file.write(lambda session: tables(session).put_run(row))
    for _ in range(2):
        assert await opened.store._file.read(lambda session: tables(session).run("news", "a", "e1")) == row
        await opened.store._file.write(lambda session: tables(session).put_run(row))


@scenario
async def test_calls_that_wait_for_each_other_share_a_transaction(opened):
    store, seen = opened.store, []
    assert opened.bus.opened_file is store._file
    await store.claim("w", [Ask(A, f"e{n}", f"t{n}", 15) for n in range(100)])
    await statements(store._file, seen)
    settled = [store.settle([final(f"e{n}", f"t{n}", counts=[("done", 1)])]) for n in range(100)]
    assert await asyncio.gather(*settled, opened.bus.publish([event(1)], 1)) == [[True]] * 100 + [[Receipt("1")]]
    assert seen.count("COMMIT") <= 4, "each commit is an fsync"
    assert (await store.metrics())[0].counts == {"done": 100}


@scenario
async def test_a_call_that_fails_spoils_no_other_of_its_transaction(opened):
    store = opened.store
    await store.claim("w", [Ask(A, f"e{n}", f"t{n}", 15) for n in range(3)])
    outbox = [Deferred(Outgoing("next", "f1", b""))]
    outcomes = await asyncio.gather(
        store.settle([final("e0", "t0", counts=[("done", 1)])]),
        store.settle([final("e1", "t1", counts=[("done", 1)], outbox=outbox), final("e2", "t2", ttl="soon")]),
        store.put("ns", [Put("k", b"v")]),
        store.put("ns", [Put("j", b"v"), Put("i", b"v", ttl="soon")]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, TypeError, list, TypeError]
    assert (await store.metrics())[0].counts == {"done": 1}
    assert [item and item.key for item in await store.get("ns", ["k", "j"])] == ["k", None]
    assert (await store.count(A))["working"] == 2
    with pytest.raises(TypeError):
        await store.put("ns", [Put("j", b"v"), Put("i", b"v", ttl="soon")])
    assert await store.get("ns", ["j"]) == [None], "alone in its transaction too"
    assert await store.settle([final("e1", "t1", outbox=outbox)]) == [True]


@scenario
async def test_reading_takes_no_lock_and_writes_nothing(opened):
    seen = []
    await statements(opened.store._file, seen)
    await asyncio.gather(opened.store.records(Query()), opened.bus.info("news"), opened.bus.read({A: 5}, 0))
    assert "BEGIN IMMEDIATE" not in seen


@scenario
async def test_a_cancelled_read_or_take_gives_back_what_it_was_handed(opened):
    bus, store, clock = opened.bus, opened.store, opened.clock
    fusion, loop = store.fuse(bus), asyncio.get_running_loop()
    await bus.publish([event(1), event(2)], 1)

    def cancelling(task):
        def at():
            loop.call_soon_threadsafe(task.cancel)  # which the loop does before it hears of the outcome
            return clock.at

        return at

    for work in (bus.read({A: 5}, 0), fusion.take("w", "c1", {A: DueWant(5, 15)}, 0)):
        task = asyncio.ensure_future(work)
        clock.time = cancelling(task)
        with pytest.raises(asyncio.CancelledError):
            await task
        del clock.time
        pending = (await bus.info("news")).groups[0].pending.value
        assert pending == 2, "it had been handed over"
    pairs = await fusion.take("w", "c2", {A: DueWant(5, 15)}, 0)
    assert [(delivery.id, grant.kind, grant.lost) for delivery, grant in pairs] == [
        ("e1", "granted", 0),
        ("e2", "granted", 0),
    ]


def test_readers_in_other_loops_of_the_process_are_woken_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("omnidaemon_sqlite._file._FIRST_POLL", 30.0)
    monkeypatch.setattr("omnidaemon_sqlite._file._LONGEST_POLL", 30.0)
    waiting, found = threading.Event(), []

    async def read():
        reader = SQLiteEventBus(tmp_path / "omni.db")
        await reader.open()
        await reader.ensure("news", {A: BEGINNING})
        asyncio.get_running_loop().call_later(0.05, waiting.set)
        found.extend(ids(await reader.read({A: 1}, 20)))
        await reader.close()

    async def publish():
        writer = SQLiteEventBus(tmp_path / "omni.db")
        await writer.open()
        await writer.publish([event(1)], 1)
        await writer.close()

    thread = threading.Thread(target=lambda: asyncio.run(read()))
    thread.start()
    waiting.wait(5)
    asyncio.run(publish())
    thread.join(5)
    assert found == ["e1"]


def test_namespaces_of_one_file_never_see_each_other(tmp_path):
    async def run():
        one, two = (Opened(tmp_path / "omni.db", namespace=name) for name in ("app", "app2"))
        async with one, two:
            assert two.store._file is one.store._file
            assert two.store.fuse(one.bus) is None
            assert two.store.fuse(two.bus) is not None
            await one.bus.publish([event(1)], 1)
            await one.store.claim("w", [Ask(A, "e1", "t1", 15), Ask(A, "e2", "t2", 15)])
            await one.store.append(Hold(A, "e2", "t2"), [b"x"], 1)
            await one.store.settle([final("e1", "t1", ttl=1, mark_ttl=1, counts=[("done", 1)])])
            await one.store.put("ns", [Put("k", b"v", ttl=1)])
            await one.store.defer([Deferred(Outgoing("t", "f1", b""))])
            assert await two.bus.read({A: 5}, 0) == []
            assert (await two.store.due("w", "t", {A: DueWant(9, 15)})).grants == {}
            assert (await two.store.records(Query())).items == []
            assert await two.store.metrics() == []
            assert await two.store.get("ns", ["k"]) == [None]
            assert await two.store.outbox("w", 9, 15) == ([], None)
            assert await two.store.defer([Deferred(Outgoing("t", "f1", b""))]) == [True]
            assert await two.store.clear_metrics() == 0
            assert await two.bus.delete("news") == 0
            two.clock.at += 1000
            assert await two.store.forget(A, two.clock.at) == 0
            assert (await one.store.records(Query())).items[0].event_id in {"e1", "e2"}
            assert len((await one.store.records(Query())).items) == 2
            assert await one.store.follow("news", "a", "e2", 0, 9) == [(1, b"x")]
            assert (await one.store.get("ns", ["k"]))[0].value == b"v"
            assert await one.bus.topics() == ["news"]

    asyncio.run(run())


@scenario
async def test_fusion_needs_one_open_file_of_one_namespace(opened):
    other = SQLiteEventBus(str(opened.path) + "2")
    closed = opened.bus.twin()
    assert opened.store.fuse(other) is None
    assert opened.store.fuse(closed) is None
    assert opened.store.twin().fuse(opened.bus) is None
    await closed.open()
    assert opened.store.fuse(closed) is not None
    await closed.close()


@scenario
async def test_take_reads_and_claims_and_settle_acknowledges(opened):
    bus, store, clock = opened.bus, opened.store, opened.clock
    fusion, want = store.fuse(bus), {A: DueWant(2, 15)}
    await bus.publish([event(1, "k:1"), event(2, "k:1"), event(3)], 1)
    pairs = await fusion.take("w", "c1", want, 0)
    assert [(delivery.id, grant.kind, grant.token) for delivery, grant in pairs] == [
        ("e1", "granted", "c1.0"),
        ("e2", "behind", ""),
    ]
    assert await fusion.take("w", "c1", want, 0) == [pairs[0]], "the same call hands out what it granted"
    assert [delivery.id for delivery, _ in await fusion.take("w", "c2", want, 0)] == ["e3"]
    assert await fusion.take("w", "c3", want, 0) == []
    assert (await bus.info("news")).groups[0].pending.value == 3
    outcome = final("e1", "c1.0", delivery=pairs[0][0])
    assert await store.settle([final("e1", "wrong", delivery=pairs[0][0])]) == [False]
    assert (await bus.info("news")).groups[0].pending.value == 3, "a refused settle is no acknowledgement"
    assert await store.settle([outcome, outcome]) == [True, True]
    assert (await bus.info("news")).groups[0].pending.value == 2
    clock.at += 15
    again = await fusion.take("w", "c4", {A: DueWant(9, 15)}, 0)
    assert [(delivery.id, grant.kind, grant.lost) for delivery, grant in again] == [
        ("e2", "granted", 0),
        ("e3", "granted", 1),
    ]


@scenario
async def test_take_obeys_marks_and_ends(opened):
    bus, store = opened.bus, opened.store
    fusion = store.fuse(bus)
    await bus.publish([event(n) for n in range(1, 4)], 1)
    await store.decide(Decision("cancel", A, "e1", "op"))
    await store.claim("v", [Ask(A, "e2", "t", 15)])
    await store.settle([final("e2", "t")])
    pairs = await fusion.take("w", "c1", {A: DueWant(9, 15)}, 0)
    assert [(delivery.id, grant.kind) for delivery, grant in pairs] == [
        ("e1", "canceled"),
        ("e2", "finished"),
        ("e3", "granted"),
    ]
    await store.retire("news", "a", group=True, dead_letters=True)
    await bus.give_back([delivery for delivery, _ in pairs])
    again = await fusion.take("w", "c2", {A: DueWant(9, 15)}, 0)
    assert {grant.kind for _, grant in again} == {"gone"}
    assert await store.settle([final("e3", "c1.2", delivery=pairs[2][0])]) == [False]


@scenario
async def test_take_waits_and_a_handback_is_available_at_once(opened):
    bus, store = opened.bus, opened.store
    fusion, want = store.fuse(bus), {A: DueWant(5, 15)}
    taking = asyncio.create_task(fusion.take("w", "c1", want, 1000))
    await asyncio.sleep(0.02)
    assert not taking.done()
    await bus.publish([event(1)], 1)
    ((delivery, grant),) = await taking
    taking = asyncio.create_task(fusion.take("v", "c2", want, 1000))
    await asyncio.sleep(0.02)
    assert not taking.done()
    assert await store.settle([Outcome(A, "e1", grant.token, OutcomeKind.HANDBACK, delivery=delivery)]) == [True]
    assert [(delivery.id, grant.kind, grant.attempt) for delivery, grant in await taking] == [("e1", "granted", 1)]


@scenario
async def test_a_delivery_of_another_file_is_not_acknowledged_by_settle(opened):
    async with Opened(str(opened.path) + "2") as other:
        await other.bus.publish([event(1)], 1)
        await opened.bus.publish([event(1)], 1)
        (delivery,) = await other.bus.read({A: 1}, 0)
        await opened.bus.read({A: 1}, 0)
        await opened.store.claim("w", [Ask(A, "e1", "t", 15)])
        await opened.store.settle([final("e1", "t", delivery=delivery)])
        await opened.bus.ack([delivery])
        assert await opened.bus.extend([delivery]) == [False]
        for each in (opened, other):
            assert (await each.bus.info("news")).groups[0].pending.value == 1


@scenario
async def test_publish_says_whether_it_is_surely_not_stored(opened):
    for error, kind in ((CommitUnknown("x"), PublishUncertain), (BackendUnavailable("x"), BackendUnavailable)):

        async def fail(*_, error=error, **__):
            raise error

        opened.bus._file, file = type("File", (), {"write": fail})(), opened.bus._file
        outcomes = await opened.bus.publish([event(1), event(2)], 1)
        opened.bus._file = file
        assert [type(outcome) for outcome in outcomes] == [kind, kind]


def test_large_removals_go_in_steps(tmp_path, monkeypatch):
    for module in (_topics, bus, store, _runs):
        monkeypatch.setattr(module, "CHUNK", 10)

    async def run():
        async with Opened(tmp_path / "omni.db") as opened:
            await opened.bus.publish([event(n) for n in range(65)], 1)
            held = await opened.bus.read({A: 35}, 0)
            await opened.bus.ack(held[:15] + held[16:])
            assert await opened.bus.trim("news", 5000.0) == 34
            info = await opened.bus.info("news")
            assert (info.length.value, info.bytes.value) == (31, 7 * 31)
            assert await opened.bus.delete("news") == 31
            assert await opened.bus.topics() == []
            for number in range(25):
                await opened.store.claim("w", [Ask(A, f"e{number}", "t", 15)])
                await opened.store.settle([final(f"e{number}", "t", mark_ttl=1)])
            opened.clock.at += 10
            assert await opened.store.forget(A, opened.clock.at) == 25

    asyncio.run(run())


@scenario
async def test_halving_finds_times_among_trimmed_events(opened):
    bus, clock = opened.bus, opened.clock
    for number in range(1, 21):
        clock.at = 1000.0 + 10 * (number // 2)
        await bus.publish([event(number)], 1)
    held = await bus.read({A: 20}, 0)
    await bus.ack([delivery for delivery in held if int(delivery.id[1:]) not in {3, 4, 9, 15}])
    await bus.trim("news", 1090.0)

    async def read(start, end):
        return [position async for position, _ in bus.history("news", start, end)]

    retained = [3, 4, 9, 15, 18, 19, 20]
    published = {n: 1000.0 + 10 * (n // 2) for n in retained}
    for since in range(990, 1120, 5):
        for until in range(since, 1120, 15):
            expected = [str(n) for n in retained if since <= published[n] <= until]
            assert await read(Start("time", time=since), Start("time", time=until)) == expected


@pytest.mark.parametrize("made", [SQLiteEventBus, SQLiteStore])
def test_everything_but_open_and_close_says_what_was_used_while_closed(made, tmp_path):
    async def run():
        adapter = made(tmp_path / "omni.db")
        plain = {"twin", "fuse", "open", "close", "repeat", "events", "tables"}
        names = {name for name, _ in inspect.getmembers(made, inspect.isfunction) if name[0] != "_"} - plain
        for name in names:
            method = getattr(adapter, name)
            needed = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty
            ]
            by_name = {parameter.name: None for parameter in needed if parameter.kind is parameter.KEYWORD_ONLY}
            call = method(*[None] * (len(needed) - len(by_name)), **by_name)
            with pytest.raises(Closed, match=f"{made.__name__}.{name}:"):
                await (anext(call) if inspect.isasyncgen(call) else call)

    asyncio.run(run())


@scenario
async def test_closing_one_of_two_leaves_the_other_its_file(opened):
    await opened.bus.close()
    await opened.store.put("ns", [Put("k", b"v")])
    await opened.bus.open()
    assert opened.bus.opened_file is opened.store._file
    await opened.store.close()
    assert await opened.bus.topics() == ["news"]
    assert len(OpenFile._opened) == 1
