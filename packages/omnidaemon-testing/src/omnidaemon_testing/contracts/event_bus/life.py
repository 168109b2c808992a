"""Rules C3, M8, L2, L3, L4, T1 and T3: deleting, life cycle, and telling the truth."""

from __future__ import annotations

import asyncio

from omnidaemon.model.errors import Closed
from omnidaemon.ports.event_bus import PORT_VERSION, EventBus, Figure
from omnidaemon_testing.contracts.event_bus.base import BEGINNING, NOW, BusBase, ids
from omnidaemon_testing.contracts.leftovers import Leftovers

__all__ = ["LifeRules"]


class LifeRules(BusBase):
    """What deleting, opening and closing promise, and what ``info`` says."""

    async def test_c3_deleting_a_group_leaves_the_others(self) -> None:
        """A deleted group gets nothing and is gone from ``info``; other groups keep their events.

        Trouble-shooting: no read may make a group; only ``ensure`` does.
        """
        bus, groups = await self.open_with("first", "second")
        first, second = groups
        await self.publish(bus, *self.events(3))
        await bus.delete(first)
        await self.nothing_for(bus, {first: 5})
        await self.publish(bus, self.event())
        await self.nothing_for(bus, {first: 5})
        assert [info.group for info in (await bus.info(self.topic)).groups] == [second]
        assert len(await self.collect(bus, second, 4)) == 4
        assert await bus.delete(first) == 0, "deleting again is no error"

    async def test_c3_a_deleted_group_s_deliveries_are_nobody_s(self) -> None:
        """What a reader holds when its group is deleted neither comes back nor disturbs the next epoch.

        Trouble-shooting: acknowledging, extending and giving it back must not make the group again.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event("old"))
        got = await self.collect(bus, group, 1, ack=False)
        other = await self.open()
        await other.delete(group)
        assert await bus.extend(got) in ([False], [None])
        await bus.give_back(got)
        await bus.ack(got)
        following = self.group(epoch=2)
        await other.ensure(self.topic, {following: NOW})
        await self.publish(bus, self.event("new"))
        assert ids(await self.collect(other, following, 1)) == ["new"]
        await self.nothing_for(bus, {group: 5, following: 5}, self.timing.lease + self.timing.quiet)

    async def test_c3_deleting_a_topic_takes_its_events(self) -> None:
        """A deleted topic has no events, no groups and no name; published again, it begins anew.

        Trouble-shooting: delete what belongs to it too: indexes, deduplication, sequences of keys.
        """
        bus, group = await self.open_with()
        await self.open_with(topic="orders.paid")
        await self.publish(bus, *self.events(3))
        gone = await bus.delete(self.topic)
        assert gone in (3, 0), f"3 events went, {gone} were reported"
        assert await bus.topics() == ["orders.paid"]
        info = await bus.info(self.topic)
        assert (info.length.value, list(info.groups)) == (0, [])
        await self.nothing_for(bus, {group: 5})
        await bus.ensure(self.topic, {group: BEGINNING})
        await self.publish(bus, self.event("e1"))
        assert ids(await self.collect(bus, group, 1)) == ["e1"]

    async def test_m8_epochs_are_groups_of_their_own(self) -> None:
        """The name of a group carries its epoch: two epochs of one agent share nothing.

        Trouble-shooting: encode all three parts of ``Group``.
        """
        bus = await self.open()
        first, second = self.group(epoch=1), self.group(epoch=2)
        await bus.ensure(self.topic, {first: BEGINNING, second: BEGINNING})
        await self.publish(bus, self.event("e1"))
        assert ids(await self.collect(bus, first, 1)) == ["e1"]
        assert ids(await self.collect(bus, second, 1)) == ["e1"]
        assert {info.group for info in (await bus.info(self.topic)).groups} == {first, second}

    async def test_l2_readers_go_on_after_a_restart(self) -> None:
        """After a restart of the server the same bus object reads, publishes and acknowledges again.

        Trouble-shooting: connect again inside the adapter; errors meanwhile are ``BackendUnavailable``.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event("before"))
        await self.collect(bus, group, 1)
        await self.restart(bus)

        async def publishes() -> bool:
            try:
                return not isinstance((await bus.publish([self.event("behind")], 5))[0], Exception)
            except Exception as error:  # noqa: BLE001 - any error must be one of ours
                assert type(error).__module__.startswith("omnidaemon"), f"a driver's error got out: {error!r}"
                return False

        await self.until(publishes, "publishing after the restart", within=self.timing.deadline * 3)
        assert "behind" in ids(await self.collect(bus, group, 1, within=self.timing.deadline * 3))

    async def test_l3_nothing_outlives_close(self) -> None:
        """After ``close`` no task, thread or open file of the bus is left; closing twice is fine.

        Trouble-shooting: cancel and await what runs in the background; close sockets, not only pools.
        """
        bus, group = await self.open_with()
        await bus.close()
        leftovers = Leftovers(self.timing)
        bus = self.make()
        await bus.open()
        await bus.ensure(self.topic, {group: BEGINNING})
        await self.publish(bus, *self.events(3))
        await self.collect(bus, group, 2, ack=False)
        await bus.close()
        await bus.close()
        await leftovers.assert_none()

    async def test_l3_a_closed_bus_refuses(self) -> None:
        """Used before ``open`` or after ``close`` it raises ``Closed``; a constructor does no I/O.

        Trouble-shooting: check in one place that all methods pass.
        """
        bus, group = self.make(), self.group()
        leftovers = Leftovers(self.timing)
        self.make()
        await leftovers.assert_none()
        for _ in range(2):
            async with self.refusal(Closed):
                await bus.publish([self.event()], 1)
            async with self.refusal(Closed):
                await bus.read({group: 1}, 0)
            async with self.refusal(Closed):
                await bus.info(self.topic)
            await bus.open()
            await bus.ping()
            await bus.close()

    async def test_l3_closing_ends_a_waiting_read(self) -> None:
        """A read that waits while its bus is closed ends soon, empty or with ``Closed``.

        Trouble-shooting: wake or cancel the blocking call; do not wait for its time-out.
        """
        bus, group = await self.open_with()
        reading = asyncio.create_task(bus.read({group: 1}, self.timing.test))
        await self.sleep(self.timing.quiet)
        await bus.close()
        done, _ = await asyncio.wait([reading], timeout=self.timing.deadline)
        if not done:
            reading.cancel()
        assert done, "closing left a read waiting"
        error = reading.exception()
        assert isinstance(error, Closed) or (error is None and reading.result() == []), f"the read gave {error!r}"

    async def test_l4_twins_share_data_and_serve_another_loop(self) -> None:
        """A twin works in another thread's event loop, on the same events, open or not.

        Trouble-shooting: no locks, futures or connections of one loop in what twins share.
        """
        bus, group = await self.open_with()
        twin = bus.twin()

        async def elsewhere() -> None:
            await twin.open()
            try:
                await self.publish(twin, self.event("e1"))
            finally:
                await twin.close()

        if self.loop_factory is not None:
            await elsewhere()  # a loop that owns time cannot share it with a thread
        else:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert ids(await self.collect(bus, group, 1)) == ["e1"]

    async def test_t1_info_tells_what_is_so(self) -> None:
        """Lengths, lags and pending counts are exact where the bus says so; None only if unknown.

        Trouble-shooting: say ``approximate`` or ``unknown`` rather than a number that may be wrong.
        """
        bus, groups = await self.open_with("busy", "idle")
        busy, idle = groups
        before = self.clock.time()
        await self.publish(bus, *self.events(5))
        await self.collect(bus, busy, 1)
        held = await self.collect(bus, busy, 2, ack=False)

        async def settled() -> bool:
            return await self.figures(bus, busy) == (2, 2) and await self.figures(bus, idle) == (5, 0)

        if bus.capabilities.exact_lag:
            await self.until(settled, "(lag, pending) of (2, 2) for one group and (5, 0) for the other")
        info = await bus.info(self.topic)
        assert info.length.quality != "exact" or info.length.value == 5
        for group in info.groups:
            for figure in (group.lag, group.pending, info.length, info.bytes):
                assert (figure.value is None) == (figure.quality == "unknown"), figure
            assert group.oldest is None or before - 5 <= group.oldest <= self.clock.time() + 5
        await bus.ack(held)
        await self.collect(bus, busy, 2)
        if bus.capabilities.exact_lag:
            await self.until(lambda: self.is_at(bus, busy, (0, 0)), "nothing lagging or pending after the last ack")
            ended = next(group for group in (await bus.info(self.topic)).groups if group.group == busy)
            assert ended.oldest is None

    async def figures(self, bus: EventBus, group: object) -> tuple[int | None, int | None]:
        """Return lag and pending of a group."""
        for info in (await bus.info(self.topic)).groups:
            if info.group == group:
                return info.lag.value, info.pending.value
        return None, None

    async def is_at(self, bus: EventBus, group: object, expected: tuple[int, int]) -> bool:
        """Return whether lag and pending of a group are as expected."""
        return await self.figures(bus, group) == expected

    async def test_t1_an_unknown_topic_is_empty(self) -> None:
        """``info`` of a topic that is not there has length 0 and no groups, and does not make it.

        Trouble-shooting: the server's "no such stream" is no error here.
        """
        bus = await self.open()
        info = await bus.info("never.made")
        assert (info.topic, info.length, list(info.groups)) == ("never.made", Figure(0), [])
        assert await bus.topics() == []

    async def test_t3_namespaces_never_meet(self) -> None:
        """Two deployments on one server see nothing of each other, even if one name begins the other.

        Trouble-shooting: end the prefix with a separator that no namespace can hold.
        """
        short, long = self.prefix[:20], f"{self.prefix[:20]}2"
        one, two = await self.open(namespace=short), await self.open(namespace=long)
        group = self.group()
        for bus in (one, two):
            await bus.ensure(self.topic, {group: BEGINNING})
        await self.publish(one, self.event("mine"))
        await self.publish(two, self.event("yours", topic="orders.paid"))
        assert await one.topics() == [self.topic]
        assert await two.topics() == [self.topic, "orders.paid"]
        await self.nothing_for(two, {group: 5})
        await two.delete(self.topic)
        assert ids(await self.collect(one, group, 1)) == ["mine"]

    async def test_t3_names_are_kept_apart(self) -> None:
        """Every legal topic and agent name is usable, and no two are confused.

        Trouble-shooting: encode injectively; some servers fold case, or take ``.`` for ``_``.
        """
        bus = await self.open()
        names = ["a.b", "a_b", "a-b", "a.b_", "A.B", "a", "a.b.c", "0", "x" * 100, "a..b", "a__b", "a.2"]
        agents = ["r.s", "r_s", "r-s", "R.S", "_", "y" * 64]
        for topic in names:
            await bus.ensure(topic, {self.group(agent, topic=topic): BEGINNING for agent in agents})
            await self.publish(bus, self.event(f"to:{topic}", topic=topic))
        assert await bus.topics() == sorted(names)
        for topic in names:
            for agent in agents:
                group = self.group(agent, topic=topic)
                got = await self.collect(bus, group, 1)
                assert [(delivery.id, delivery.group) for delivery in got] == [(f"to:{topic}", group)]

    async def test_port_the_adapter_describes_itself(self) -> None:
        """Version, capabilities, scope and location are there before ``open`` and hold no secret.

        Trouble-shooting: compare with ``EventBus`` in ``omnidaemon.ports``.
        """
        bus = self.make()
        assert bus.port_version == PORT_VERSION
        assert bus.capabilities.name
        widths = ("process", "machine", "network")
        assert widths.index(bus.scope) <= widths.index(bus.capabilities.scope)
        assert "@" not in bus.location, "the location shows credentials"
        assert "@" not in repr(bus), "the repr shows credentials"
        if bus.capabilities.history_by_time:
            assert bus.capabilities.history
