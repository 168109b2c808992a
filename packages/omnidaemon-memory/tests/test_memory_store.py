"""What is the memory store's own; the rules of the ledger are tested with it and by the contract."""

import asyncio
import inspect

import pytest

from omnidaemon.model.errors import Closed
from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    DueWant,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    Outgoing,
    TaskState,
)
from omnidaemon.ports.ledger import KvRow
from omnidaemon.ports.store import Put, Query
from omnidaemon_memory import MemoryStore, MemoryTables

A = Group("news", "a", 1)


class SetClock:
    def __init__(self):
        self.at = 1000.0

    def time(self):
        return self.at


def scenario(function):
    """Run an async test with an open store on a clock that only the test moves."""

    def test():
        async def run():
            clock = SetClock()
            store = MemoryStore(clock=clock)
            await store.open()
            await store.enroll("news", "a", b"{}")
            await function(*(store, clock)[: function.__code__.co_argcount])
            await store.close()

        asyncio.run(run())

    test.__name__ = function.__name__
    return test


def final(event_id, token, **fields):
    return Outcome(A, event_id, token, OutcomeKind.FINAL, **fields)


@scenario
async def test_claim_and_settle(store, clock):
    (grant,) = await store.claim("w", [Ask(A, "e1", "t1", 15)])
    assert (grant.kind, grant.attempt, grant.token) == ("granted", 1, "t1")
    assert (await store.claim("v", [Ask(A, "e1", "t2", 15)]))[0].kind == "busy"
    clock.at += 1
    counts = [("completed", 1), ("seconds", 0.5)]
    assert await store.settle([final("e1", "t1", result=b"42", counts=counts)] * 2) == [True, True]
    assert (await store.claim("v", [Ask(A, "e1", "t2", 15)]))[0].kind == "finished"
    (record,) = (await store.records(Query(event_ids=["e1"]))).items
    assert (record.state, record.result, record.updated) == (TaskState.COMPLETED, b"42", 1001.0)
    (row,) = await store.metrics()
    assert row.counts == {"completed": 1, "seconds": 0.5}


@scenario
async def test_a_call_that_raises_leaves_nothing_half_done(store):
    good = Outcome(
        A, "e1", "t1", OutcomeKind.FINAL, outbox=[Deferred(Outgoing("next", "f1", b""))], counts=[("completed", 1)]
    )
    await store.claim("w", [Ask(A, "e1", "t1", 15, lane="k:1"), Ask(A, "e2", "t2", 15)])
    with pytest.raises(TypeError):
        await store.settle([good, final("e2", "t2", counts=[("seconds", None)])])
    with pytest.raises(TypeError):
        await store.put("ns", [Put("a", b"1"), Put("b", b"2", ttl="soon")])
    assert [record.state for record in (await store.records(Query())).items] == [TaskState.WORKING] * 2
    assert await store.metrics() == []
    assert await store.outbox("w", 10, 15) == ([], None)
    assert await store.get("ns", ["a"]) == [None]
    assert (await store.claim("w", [Ask(A, "e1", "t1", 15)]))[0].kind == "granted"
    assert await store.settle([good]) == [True], "its token is not spent"
    assert (await store.count(A))["working"] == 1


@scenario
async def test_what_callers_change_does_not_change_the_rows(store):
    await store.claim("w", [Ask(A, "e1", "t1", 15)])
    await store.note(Hold(A, "e1", "t1"), "step", b"1")
    notes = await store.notes(A, "e1")
    notes["step"] = b"2"
    record = (await store.records(Query())).items[0]
    record.state = TaskState.FAILED
    (row, _) = await store.enroll("news", "b", b"{}")
    row.deleted = True
    assert await store.notes(A, "e1") == {"step": b"1"}
    assert (await store.records(Query())).items[0].state is TaskState.WORKING
    assert not (await store.agents())[1].deleted


@scenario
async def test_the_inbox_hands_out_in_order_of_due_time_then_of_arrival(store, clock):
    names = ["z", "y", "x", "w"]
    await store.adopt([Adoption(A, name, b"", delay=5.0 if name == "z" else 1.0) for name in names])
    due = await store.due("w", "c1", {A: DueWant(10, 15)})
    assert (due.grants, due.next_in) == ({}, 1.0)
    clock.at += 10
    due = await store.due("w", "c2", {A: DueWant(2, 15)})
    assert [grant.event_id for grant in due.grants[A]] == ["y", "x"]
    again = await store.due("w", "c2", {A: DueWant(2, 15)})
    assert again.grants == due.grants
    assert [grant.event_id for grant in (await store.due("w", "c3", {A: DueWant(9, 15)})).grants[A]] == ["w", "z"]


@scenario
async def test_records_page_by_update_while_being_written_to(store, clock):
    for number in range(7):
        clock.at += 1
        await store.claim("w", [Ask(A, f"e{number}", f"t{number}", 15, tenant=f"x{number % 2}")])
    first = await store.records(Query(), None, 3)
    clock.at += 1
    await store.claim("w", [Ask(A, "new", "tn", 15)])
    second = await store.records(Query(), first.cursor, 3)
    third = await store.records(Query(), second.cursor, 3)
    seen = [record.event_id for page in (first, second, third) for record in page.items]
    assert seen == ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]
    assert third.cursor is None

    async def found(**fields):
        return [record.event_id for record in (await store.records(Query(**fields))).items]

    assert await found(tenant="x1") == ["e5", "e3", "e1"]
    assert await found(event_ids=["e2", "e4", "none"]) == ["e4", "e2"]
    assert await found(since=1002.0, until=1004.0) == ["e2", "e1"]
    assert await found(states=[TaskState.WORKING], topic="news", agent="a") == [
        "new", "e6", "e5", "e4", "e3", "e2", "e1", "e0",
    ]  # fmt: skip
    assert await found(states=[TaskState.COMPLETED]) == []
    assert await found(dead=True) == []
    assert await found(topic="other") == []


@scenario
async def test_expired_rows_are_never_returned_and_in_the_end_removed(store, clock):
    await store.claim("w", [Ask(A, "e1", "t1", 15), Ask(A, "e2", "t2", 15)])
    await store.append(Hold(A, "e2", "t2"), [b"a"], 5)
    clock.at += 3
    await store.append(Hold(A, "e2", "t2"), [b"b"], 5)
    await store.settle([final("e1", "t1", ttl=10, mark_ttl=20, counts=[("completed", 1)])])
    await store.put("ns", [Put("k", b"v", ttl=10), Put("stays", b"v")])
    clock.at += 3
    assert await store.follow("news", "a", "e2", 0, 10) == [(1, b"a"), (2, b"b")], "kept 5 s after the last"
    assert await store.follow("news", "a", "e2", 1, 10) == [(2, b"b")]
    clock.at += 7
    assert await store.follow("news", "a", "e2", 0, 10) == []
    assert (await store.records(Query(event_ids=["e1"]))).items == []
    assert await store.get("ns", ["k"]) == [None]
    assert [item.key for item in (await store.scan("ns")).items] == ["stays"]
    assert await store.forget(A, clock.at) == 0, "the mark's own window has not passed"
    assert (await store.claim("v", [Ask(A, "e1", "t9", 15)]))[0].kind == "finished"
    with store.data.transaction(clock.at) as ledger:
        assert ledger.tables.run("news", "a", "e1") is None
        assert ledger.tables.kv("ns", "k") is None
    clock.at += 20
    assert await store.forget(A, clock.at) == 1
    (row,) = await store.metrics(since=0.0)
    assert row.counts == {"completed": 1}
    clock.at += 36 * 86_400
    await store.forget(A, clock.at)
    assert await store.metrics(since=0.0) == []
    assert (await store.metrics())[0].counts == {"completed": 1}
    assert await store.clear_metrics() == 1


@scenario
async def test_a_new_run_of_an_expired_event_begins_without_the_old_progress(store, clock):
    await store.claim("w", [Ask(A, "e1", "t1", 15)])
    await store.append(Hold(A, "e1", "t1"), [b"old"], 1e9)
    await store.settle([final("e1", "t1", ttl=1, mark_ttl=1)])
    clock.at += 2
    with store.data.transaction(clock.at) as ledger:
        ledger.tables.drop_marks(A, clock.at, clock.at)
    assert (await store.claim("w", [Ask(A, "e1", "t2", 15)]))[0].kind == "granted"
    assert await store.follow("news", "a", "e1", 0, 9) == []


@scenario
async def test_the_outbox_leases_in_order_of_due_time_then_of_arrival(store, clock):
    rows = [Deferred(Outgoing("t", name, b""), delay=delay) for name, delay in [("z", 1), ("y", 1), ("x", 0)]]
    assert await store.defer([*rows, rows[0]]) == [True, True, True, False]
    leased, following = await store.outbox("w", 10, 15)
    assert ([event.id for event in leased], following) == (["x"], 1.0)
    clock.at += 1
    assert [event.id for event in (await store.outbox("w", 1, 15))[0]] == ["z"]
    assert [event.id for event in (await store.outbox("w", 9, 15))[0]] == ["y"]
    await store.sent([rows[0].event, rows[1].event])
    clock.at += 15
    assert [event.id for event in (await store.outbox("w", 9, 15))[0]] == ["x"]


def test_twins_and_a_namespace_share_rows():
    async def run():
        one = MemoryStore(MemoryTables())
        named, same, other = (MemoryStore.from_settings({"namespace": name}) for name in ("app", "app", "app2"))
        for store in (one, twin := one.twin(), named, same, other):
            await store.open()
        await one.put("ns", [Put("k", b"v")])
        await named.put("ns", [Put("k", b"w")])
        assert (await twin.get("ns", ["k"]))[0].value == b"v"
        assert (await same.get("ns", ["k"]))[0].value == b"w"
        assert await other.get("ns", ["k"]) == [None]

    asyncio.run(run())


def test_everything_but_open_and_close_says_what_was_used_while_closed():
    async def run():
        store = MemoryStore()
        plain = {"from_settings", "twin", "fuse", "open", "close"}
        names = [name for name, value in inspect.getmembers(MemoryStore, inspect.isfunction) if name[0] != "_"]
        for name in set(names) - plain:
            method = getattr(store, name)
            needed = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty
            ]
            by_name = {parameter.name: None for parameter in needed if parameter.kind is parameter.KEYWORD_ONLY}
            with pytest.raises(Closed, match=f"MemoryStore.{name}:"):
                await method(*[None] * (len(needed) - len(by_name)), **by_name)

    asyncio.run(run())


def test_a_failed_transaction_restores_every_table():
    tables = MemoryTables()
    with tables.transaction(5.0) as ledger:
        ledger.put("ns", [Put("k", b"v", ttl=1)])
        ledger.tables.add_counts("t", "a", 0, [("n", 1)])
    with pytest.raises(ZeroDivisionError), tables.transaction(7.0) as ledger:  # noqa: PT012
        ledger.tables.sweep(7.0, 10)
        ledger.tables.next_generation(A)
        ledger.tables.put_mark(A, "e", 1.0, 2.0)
        ledger.tables.put_kv("ns", KvRow("j", b"", 1))
        ledger.tables.drop_counts()
        ledger.enroll("t", "a", b"")
        raise ZeroDivisionError
    with tables.transaction(5.5) as ledger:
        assert ledger.get("ns", ["k", "j"])[0].value == b"v"
        assert ledger.get("ns", ["j"]) == [None]
        assert ledger.tables.counts(None, None, None, None)[0].counts == {"n": 1}
        assert not ledger.tables.mark(A, "e")
        assert ledger.tables.next_generation(A) == 1
        assert ledger.tables.agents() == []
        assert ledger.tables.sweep(7.0, 10) == 1, "it is still known to expire"
