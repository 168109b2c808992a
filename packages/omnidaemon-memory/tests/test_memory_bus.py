"""The memory bus through its port."""

import asyncio
import contextlib
import threading

import pytest

from omnidaemon.model.errors import BusFull, Closed, ConfigurationError, NotAttempted, PayloadTooLarge
from omnidaemon.model.run import Group, Outgoing, Receipt, Start
from omnidaemon_memory import MemoryEventBus

BEGINNING, NOW = Start("beginning"), Start("now")
A, B = Group("news", "a", 1), Group("news", "b", 1)


class ManualClock:
    """Time passes only when a test says so."""

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


def event(number, key=None, topic="news", body=None):
    return Outgoing(topic, f"e{number}", b"body %d" % number if body is None else body, key)


def ids(deliveries):
    return [delivery.id for delivery in deliveries]


@contextlib.asynccontextmanager
async def opened(**options):
    bus = MemoryEventBus(**options)
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


def scenario(function):
    """Run an async test with an open bus on a manual clock; no plugin needed."""

    def test():
        async def run():
            clock = ManualClock()
            async with opened(clock=clock, lease=15.0) as bus:
                await bus.ensure("news", {A: BEGINNING})
                await function(*(bus, clock)[: function.__code__.co_argcount])

        asyncio.run(run())

    test.__name__ = function.__name__
    return test


@scenario
async def test_every_group_gets_every_event_and_members_share(bus):
    await bus.ensure("news", {B: BEGINNING})
    twin = bus.twin()
    await twin.open()
    receipts = await bus.publish([event(n) for n in range(4)], 1)
    assert [type(receipt) for receipt in receipts] == [Receipt] * 4
    first = await bus.read({A: 2}, 0)
    second = await twin.read({A: 10, B: 10}, 0)
    assert ids(first) == ["e0", "e1"]
    assert ids(second) == ["e2", "e3", "e0", "e1", "e2", "e3"]
    assert first[0].body == b"body 0"
    assert await bus.read({A: 10, B: 10}, 0) == []


@scenario
async def test_a_want_of_zero_and_an_unknown_group_deliver_nothing(bus):
    await bus.publish([event(1)], 1)
    assert await bus.read({A: 0, Group("news", "nobody", 1): 5, Group("none", "a", 1): 5}, 0) == []


@scenario
async def test_what_nobody_extends_is_delivered_again_after_the_lease(bus, clock):
    await bus.publish([event(1), event(2)], 1)
    one, two = await bus.read({A: 5}, 0)
    clock.at += 10
    assert await bus.extend([two]) == [True]
    clock.at += 5
    twin = bus.twin()
    await twin.open()
    assert ids(await twin.read({A: 5}, 0)) == ["e1"]
    assert await bus.extend([one, two]) == [False, True]
    await bus.give_back([one])
    assert await bus.read({A: 5}, 0) == [], "only its reader can give it back"
    await bus.ack([one, two])
    clock.at += 100
    assert await twin.read({A: 5}, 0) == [], "acknowledged by whoever had it once"
    assert await twin.extend([one]) == [False]


@scenario
async def test_given_back_is_available_at_once(bus):
    await bus.publish([event(1), event(2)], 1)
    deliveries = await bus.read({A: 5}, 0)
    await bus.give_back(deliveries[:1])
    assert ids(await bus.read({A: 5}, 0)) == ["e1"]


@scenario
async def test_a_waiting_read_wakes_for_a_publish_a_give_back_and_a_redelivery(bus, clock):
    async def read():
        return ids(await bus.read({A: 5}, 1000))

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.001)
    await bus.publish([event(1)], 1)
    assert await reading == ["e1"]
    clock.at += 14.9
    reading = asyncio.create_task(read())
    await asyncio.sleep(0.001)
    assert not reading.done()
    clock.at += 0.1
    assert await reading == ["e1"]
    twin = bus.twin()
    await twin.open()
    await twin.publish([event(2)], 1)
    held = await twin.read({A: 1}, 0)
    reading = asyncio.create_task(read())
    await asyncio.sleep(0.001)
    await twin.give_back(held)
    assert await reading == ["e2"]
    start = clock.at
    reading = asyncio.create_task(bus.read({Group("news", "none", 1): 5}, 30))
    await asyncio.sleep(0.001)
    clock.at = start + 30
    assert await reading == []


def test_a_publish_wakes_a_reader_in_another_thread():
    bus, found, ready = MemoryEventBus(), [], threading.Event()

    async def reader():
        twin = bus.twin()
        await twin.open()
        await twin.ensure("news", {A: BEGINNING})
        asyncio.get_running_loop().call_later(0.05, ready.set)
        found.extend(ids(await twin.read({A: 1}, 10)))

    async def publisher():
        await bus.open()
        await bus.publish([event(7)], 1)

    thread = threading.Thread(target=lambda: asyncio.run(reader()))
    thread.start()
    ready.wait(5)
    asyncio.run(publisher())
    thread.join(5)
    assert found == ["e7"]


@scenario
async def test_close_ends_a_waiting_read_and_keeps_what_was_delivered_for_the_group(bus, clock):
    await bus.publish([event(1)], 1)
    await bus.read({A: 1}, 0)
    reading = asyncio.create_task(bus.read({A: 1}, 1000))
    await asyncio.sleep(0.001)
    await bus.close()
    await bus.close()
    assert await reading == []
    await bus.open()
    assert await bus.read({A: 1}, 0) == []
    clock.at += 15
    assert ids(await bus.read({A: 1}, 0)) == ["e1"]


@scenario
async def test_a_keyed_delivery_names_its_closest_unfinished_predecessor(bus):
    await bus.publish([event(1, "k"), event(2, "other"), event(3, "k"), event(3, "k"), event(4, "k"), event(5)], 1)
    got = await bus.read({A: 10}, 0)
    assert [(delivery.id, delivery.after) for delivery in got] == [
        ("e1", None),
        ("e2", None),
        ("e3", "e1"),
        ("e3", "e1"),  # published twice: not its own predecessor
        ("e4", "e3"),
        ("e5", None),
    ]
    await bus.ack([got[0], got[2], got[3]])
    await bus.give_back([got[4]])
    assert [(delivery.id, delivery.after) for delivery in await bus.read({A: 10}, 0)] == [("e4", None)]


@scenario
async def test_groups_start_where_they_are_told_and_keep_their_place(bus, clock):
    await bus.publish([event(1)], 1)
    clock.at += 10
    second = (await bus.publish([event(2)], 1))[0]
    clock.at += 10
    await bus.publish([event(3)], 1)
    starts = {
        "beginning": BEGINNING,
        "now": NOW,
        "time": Start("time", time=1005.0),
        "late": Start("time", time=9999.0),
        "position": Start("position", position=second.position),
        "future": Start("position", position="77"),
    }
    groups = {Group("news", name, 1): start for name, start in starts.items()}
    await bus.ensure("news", groups)
    await bus.publish([event(4)], 1)
    await bus.ensure("news", dict.fromkeys(groups, BEGINNING))
    got = {group.agent: ids(await bus.read({group: 10}, 0)) for group in groups}
    assert got == {
        "beginning": ["e1", "e2", "e3", "e4"],
        "now": ["e4"],
        "time": ["e2", "e3", "e4"],
        "late": ["e4"],
        "position": ["e2", "e3", "e4"],
        "future": ["e4"],
    }
    with pytest.raises(ConfigurationError, match="'x' is no position"):
        await bus.ensure("news", {B: Start("position", position="x")})


@scenario
async def test_history_reads_from_and_to_a_place_without_a_group(bus, clock):
    positions = []
    for number in range(1, 5):
        positions.append((await bus.publish([event(number)], 1))[0].position)
        clock.at += 10

    async def read(start, end):
        return [(position, body[-1:]) async for position, body in bus.history("news", start, end)]

    everything = list(zip(positions, (b"1", b"2", b"3", b"4"), strict=True))
    assert await read(BEGINNING, NOW) == everything
    assert await read(Start("time", time=1010.0), Start("time", time=1020.0)) == everything[1:3]
    assert (
        await read(Start("position", position=positions[1]), Start("position", position=positions[2]))
        == (everything[1:3])
    )
    assert await read(NOW, NOW) == []
    assert await read(BEGINNING, BEGINNING) == []
    reading = bus.history("news", BEGINNING, NOW)
    first = await anext(reading)
    await bus.publish([event(5)], 1)
    assert [first, *[item async for item in reading]][-1][1] == b"body 4", "'now' is when it began"


@scenario
async def test_trim_removes_only_what_is_old_and_finished_by_every_group(bus, clock):
    await bus.ensure("news", {B: BEGINNING})
    await bus.publish([event(n) for n in range(1, 5)], 1)
    clock.at += 100
    await bus.publish([event(5)], 1)
    a = await bus.read({A: 5}, 0)
    b = await bus.read({B: 4}, 0)
    await bus.ack([a[0], a[2], a[3], a[4]])
    await bus.ack(b)
    assert await bus.trim("news", 1100.0) == 3, "1, 3 and 4: 2 is not finished by a, 5 is not old"
    assert await bus.trim("news", 9999.0) == 0, "5 is not finished by b"
    assert await bus.trim("none", 9999.0) == 0
    assert (await bus.info("news")).length.value == 2
    await bus.ack(a)
    await bus.ack(await bus.read({B: 1}, 0))
    assert await bus.trim("news", 9999.0) == 2
    late = Group("news", "late", 1)
    await bus.ensure("news", {late: BEGINNING})
    assert (await bus.info("news")).groups[-1].lag.value == 0


def test_a_full_topic_refuses_until_its_groups_have_finished():
    async def run():
        async with opened(topic_max_bytes=25) as bus:
            ten = b"0123456789"
            outcomes = await bus.publish([event(n, body=ten) for n in range(3)], 1)
            assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, BusFull]
            assert "topic_max_bytes" in str(outcomes[2])
            await bus.ensure("news", {A: BEGINNING})
            assert type((await bus.publish([event(3, body=ten)], 1))[0]) is BusFull
            await bus.ack(await bus.read({A: 1}, 0))
            assert type((await bus.publish([event(3, body=ten)], 1))[0]) is Receipt
            assert type((await bus.publish([event(4, body=ten)], 1))[0]) is BusFull

    asyncio.run(run())


def test_after_a_failure_later_events_of_the_key_are_not_attempted():
    async def run():
        async with opened(max_event_bytes=10) as bus:
            batch = [event(1, "k"), event(2, "k", body=b"x" * 11), event(3, "k"), event(4, "j"), event(5)]
            outcomes = await bus.publish(batch, 1)
            assert [type(outcome) for outcome in outcomes] == [Receipt, PayloadTooLarge, NotAttempted, Receipt, Receipt]
            assert bus.capabilities.max_event_bytes == 10
            assert [body async for _, body in bus.history("news", BEGINNING, NOW)] == [b"body 1", b"body 4", b"body 5"]

    asyncio.run(run())


@scenario
async def test_info_is_exact(bus, clock):
    await bus.publish([event(1)], 1)
    clock.at += 5
    await bus.publish([event(2), event(3)], 1)
    held = await bus.read({A: 2}, 0)
    info = await bus.info("news")
    group = info.groups[0]
    assert (info.length.value, info.bytes.value, info.first, info.last) == (3, 18, "1", "3")
    assert (group.group, group.lag.value, group.pending.value, group.oldest) == (A, 1, 2, 1000.0)
    assert group.position == held[-1].position
    assert len(group.readers) == 1
    await bus.ack(held[:1])
    assert (await bus.info("news")).groups[0].oldest == 1005.0
    unknown = await bus.info("unknown")
    assert (unknown.length.value, list(unknown.groups)) == (0, [])
    assert await bus.topics() == ["news"]


@scenario
async def test_deleted_groups_and_topics_are_gone_for_those_who_hold_deliveries(bus):
    await bus.publish([event(1), event(2)], 1)
    held = await bus.read({A: 2}, 0)
    assert await bus.delete(A) == 0
    assert await bus.delete(A) == 0
    assert await bus.extend(held) == [False, False]
    await bus.ensure("news", {A: BEGINNING})
    await bus.ack(held)
    assert ids(await bus.read({A: 5}, 0)) == ["e1", "e2"], "an old acknowledgement does not finish for the new group"
    assert await bus.delete("news") == 2
    assert await bus.delete("news") == 0
    assert await bus.read({A: 5}, 0) == []
    assert await bus.topics() == []


def test_everything_but_open_and_close_says_what_was_used_while_closed():
    async def run():
        bus = MemoryEventBus()
        calls = {
            "ping": bus.ping(),
            "ensure": bus.ensure("t", {}),
            "publish": bus.publish([], 1),
            "read": bus.read({}, 0),
            "ack": bus.ack([]),
            "extend": bus.extend([]),
            "give_back": bus.give_back([]),
            "history": anext(bus.history("t", BEGINNING, NOW)),
            "trim": bus.trim("t", 0),
            "info": bus.info("t"),
            "topics": bus.topics(),
            "delete": bus.delete("t"),
        }
        for name, call in calls.items():
            with pytest.raises(Closed, match=f"MemoryEventBus.{name}:"):
                await call

    asyncio.run(run())


def test_one_process_and_namespace_share_their_events_others_do_not():
    async def run():
        one, same, other = (MemoryEventBus.from_settings({"namespace": name}) for name in ("app", "app", "app2"))
        for bus in (one, same, other):
            await bus.open()
        await one.publish([event(1)], 1)
        assert await same.topics() == ["news"]
        assert await other.topics() == []
        assert same.scope == "process"
        assert same.location == "memory of this process"

    asyncio.run(run())


@scenario
async def test_what_comes_back_at_different_times_comes_in_the_order_of_publishing(bus, clock):
    await bus.publish([event(n, "k") for n in range(1, 6)], 1)
    held = await bus.read({A: 5}, 0)
    await bus.give_back([held[3]])
    clock.at += 15
    await bus.extend([held[2]])
    assert ids(await bus.read({A: 2}, 0)) == ["e1", "e2"]
    assert ids(await bus.read({A: 5}, 0)) == ["e4", "e5"]
    clock.at += 15
    assert ids(await bus.read({A: 9}, 0)) == ["e1", "e2", "e3", "e4", "e5"]
