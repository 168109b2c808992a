"""Rules D1 to D18 and L1, as far as a bus alone can show them."""

from __future__ import annotations

import asyncio
import itertools

from omnidaemon.model.run import Delivery, Outgoing
from omnidaemon.ports.event_bus import EventBus
from omnidaemon_testing.contracts.base import Stalled
from omnidaemon_testing.contracts.event_bus.base import BEGINNING, BusBase, ids

__all__ = ["DeliverRules"]


class DeliverRules(BusBase):
    """What reading, acknowledging and giving back promise."""

    async def test_port_a_waiting_read_wakes_for_an_event(self) -> None:
        """A read that waits returns with the first event, not at the end of its wait.

        Trouble-shooting: block on the server, or have publish wake the readers; do not sleep.
        """
        bus, group = await self.open_with()
        other = await self.open()
        reading = asyncio.create_task(bus.read({group: 1}, self.timing.deadline))
        await self.sleep(self.timing.quiet)
        assert not reading.done(), f"a read of an empty topic returned {reading.result()} before its wait was over"
        begun = self.time()
        await self.publish(other, self.event("e1"))
        assert ids(await reading) == ["e1"]
        assert self.time() - begun < self.timing.deadline / 2, "the read slept on although an event was there"

    async def test_port_a_read_of_nothing_ends_empty_after_its_wait(self) -> None:
        """Without events a read returns an empty list after about its wait; a missing group is left out.

        Trouble-shooting: a time-out of the driver is no error here.
        """
        bus, group = await self.open_with()
        begun = self.time()
        assert await bus.read({group: 5}, self.timing.quiet) == []
        elapsed = self.time() - begun
        assert elapsed > self.timing.quiet / 2, "a read that does not wait makes its worker spin"
        assert elapsed < self.timing.quiet + self.timing.deadline
        assert await bus.read({self.group("nobody"): 5}, 0) == []
        await self.publish(bus, self.event("e1"))
        assert ids(await bus.read({self.group("nobody"): 5, group: 5}, self.timing.deadline)) == ["e1"]

    async def test_d1_only_an_acknowledgement_finishes(self) -> None:
        """What was read and not acknowledged comes again, to another reader when its own is gone.

        Trouble-shooting: look for auto-acknowledge, or for a cursor that is moved by reading.
        """
        bus, group = await self.open_with()
        events = self.events(3)
        await self.publish(bus, *events)
        assert len(await self.collect(bus, group, 3, ack=False)) == 3
        await bus.close()
        got = await self.collect(await self.open(), group, 3, within=self.redelivered_within())
        assert {delivery.id: delivery.body for delivery in got} == {event.id: event.body for event in events}

    async def test_d1_acknowledged_events_never_come_again(self) -> None:
        """An acknowledgement holds for ever and for that event only, in whatever order it is given.

        Trouble-shooting: a cursor can only be moved up to the oldest event that is not acknowledged.
        """
        bus, group = await self.open_with()
        await self.publish(bus, *[self.event(f"e{number}") for number in range(6)])
        got = await self.collect(bus, group, 6, ack=False)
        await bus.ack([delivery for delivery in got if delivery.id in ("e1", "e4", "e5")])
        await bus.ack([delivery for delivery in got if delivery.id == "e4"])
        await bus.close()
        other = await self.open()
        again = await self.collect(other, group, 3, within=self.redelivered_within())
        assert sorted(ids(again)) == ["e0", "e2", "e3"]
        await self.nothing_for(other, {group: 5}, self.timing.lease + self.timing.quiet)

    async def test_d2_a_read_keeps_to_its_want(self) -> None:
        """A read gives each group at most what it wants; a want of 0 gives nothing and loses nothing.

        Trouble-shooting: what the server sends in excess must go back, or wait in the adapter with
        its place in the group.
        """
        bus, groups = await self.open_with("first", "second")
        await self.publish(bus, *self.events(10))
        first, second = groups
        got = await bus.read({first: 3, second: 0}, self.timing.deadline)
        assert len(got) <= 3, f"3 events were wanted, {len(got)} came"
        assert {delivery.group for delivery in got} == {first}
        got += await self.collect(bus, first, 10 - len(got), ack=False)
        assert len(set(ids(got))) == 10
        assert len(await self.collect(bus, second, 10)) == 10

    async def test_d3_a_dead_reader_s_events_move_in_time(self) -> None:
        """What a reader holds moves to another when it is silent for the lease; not earlier, not later.

        On a bus that delivers again for a lost ``connection`` or from an older ``position``, it does
        not move while its reader is connected, and moves when it is gone.

        Trouble-shooting: claim idle entries in ``read`` (XAUTOCLAIM, ack_wait, ...) and keep looking
        for them while waiting.
        """
        bus, group = await self.open_with()
        other = await self.open()
        await self.publish(bus, self.event("e1"))
        begun = self.time()
        await self.collect(bus, group, 1, ack=False)
        handed = self.time()
        if bus.capabilities.redelivery in ("connection", "position"):
            await self.nothing_for(other, {group: 1}, self.timing.lease * 2)
            await bus.close()
            handed = self.time()
        got = await self.collect(other, group, 1, within=self.timing.deadline)
        came = self.time()
        assert ids(got) == ["e1"]
        if bus.capabilities.redelivery in ("idle", "ack_wait"):
            early = self.timing.lease - (came - begun)
            assert early <= self.timing.quiet / 2, f"handed to another reader {early:.2f} s before the lease was over"
        late = came - handed - self.timing.lease
        assert late <= self.timing.slack, f"handed over {late:.2f} s after the lease was over"

    async def test_d4_extending_keeps_a_delivery(self) -> None:
        """A delivery that is extended in time is given to nobody else; the reply is True or None.

        Trouble-shooting: extend must restart the idle time or ack time-out on the server.
        """

        async def attempt() -> None:
            bus, group = await self.open_with()
            other = await self.open()
            await self.publish(bus, self.event())
            before = self.time()
            got = await self.collect(bus, group, 1, ack=False)
            end = before + 3 * self.timing.lease
            while self.time() < end:
                reading = other.read({group: 1}, self.timing.lease / 4)
                stolen, answers = await asyncio.gather(reading, bus.extend(got))
                if self.time() - before > self.timing.lease * 0.8:
                    await bus.ack(got)
                    raise Stalled
                before = self.time()
                assert not stolen, "handed to another reader although it was extended in time"
                assert answers in ([True], [None]), f"extending what it holds gave {answers}"
            await bus.ack(got)
            await self.nothing_for(other, {group: 1}, self.timing.lease + self.timing.quiet)

        await self.patiently(attempt)

    async def test_d4_extending_what_was_lost_says_so(self) -> None:
        """After another reader got the event, the first one's extend gives False, or None for unknown.

        Trouble-shooting: check the owner in the same step as the extension.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event())
        got = await self.collect(bus, group, 1, ack=False)
        if bus.capabilities.redelivery not in ("idle", "ack_wait"):
            self.absent(bus, "redelivery by idle time")
        other = await self.open()
        again = await self.collect(other, group, 1, ack=False, within=self.timing.deadline)
        answers = await bus.extend(got)
        assert answers in ([False], [None]), f"extending what another reader holds gave {answers}"
        await other.ack(again)

    async def test_d9_what_is_no_event_travels_unchanged(self) -> None:
        """Bytes that are no event are delivered like any other; their neighbours are unharmed.

        Trouble-shooting: a bus never decodes a body; the worker dead-letters what it cannot read.
        """
        bus, group = await self.open_with()
        bad = [b"\xff\xfe\x00\x80", b"not json", b"{", b"[]", b'{"id": 7}', bytes(range(256))]
        batch = [Outgoing(self.topic, f"bad{number}", body) for number, body in enumerate(bad)]
        await self.publish(bus, self.event("before"), *batch, self.event("behind"))
        got = await self.collect(bus, group, len(bad) + 2)
        assert ids(got) == ["before", *[event.id for event in batch], "behind"]
        assert [delivery.body for delivery in got[1:-1]] == bad

    async def test_d12_events_of_a_key_keep_their_order(self) -> None:
        """One key's events go to one reader at a time, or each names its unfinished predecessor.

        Trouble-shooting: without partitions, take a sequence of the key at publish and deliver the
        id of the event before it as ``after``.
        """
        bus, group = await self.open_with()
        self.needs(bus, "ordered_by_key")
        other = await self.open()
        await self.publish(bus, *[self.event(f"{key}{number}", key=key) for key in "ab" for number in range(8)])
        got: list[tuple[EventBus, Delivery]] = []
        end = self.time() + self.timing.deadline
        while len(got) < 16 and self.time() < end:
            for reader in (bus, other):
                got += [(reader, delivery) for delivery in await reader.read({group: 1}, self.timing.quiet / 10)]
                await reader.extend([delivery for owner, delivery in got if owner is reader])
        for key in "ab":
            mine = [(reader, delivery) for reader, delivery in got if delivery.key == key]
            assert [delivery.id for _, delivery in mine] == [f"{key}{number}" for number in range(8)]
            assert mine[0][1].after is None
            for (reader, earlier), (later_reader, later) in itertools.pairwise(mine):
                assert later.after == earlier.id or reader is later_reader, (
                    f"{later.id} went to another reader than {earlier.id}, which is not finished, without naming it"
                )
        for reader in (bus, other):
            await reader.ack([delivery for owner, delivery in got if owner is reader])

    async def test_d12_a_finished_predecessor_is_not_named(self) -> None:
        """Keys are carried; ``after`` is None where nothing earlier of that key is unfinished.

        Trouble-shooting: leave ``after`` empty without ``ordered_by_key``; compare with what the
        group has acknowledged, not with what was published last.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event("a1", key="a"), self.event("plain"), self.event("a2", key="a"))
        got: list[Delivery] = []
        for _ in range(3):
            got += await self.collect(bus, group, 1)
        assert [(delivery.id, delivery.key, delivery.after) for delivery in got] == [
            ("a1", "a", None),
            ("plain", None, None),
            ("a2", "a", None),
        ]

    async def test_d12_what_is_given_back_comes_back_in_order(self) -> None:
        """Events of one key that were given back together come again as they were published.

        Trouble-shooting: give back from the last to the first, or sort by position when handing out.
        """
        bus, group = await self.open_with()
        self.needs(bus, "ordered_by_key")
        names = [f"a{number}" for number in range(5)]
        await self.publish(bus, *[self.event(name, key="a") for name in names])
        got = await self.collect(bus, group, 5, ack=False)
        await bus.give_back(got[::-1])
        again = await self.collect(bus, group, 5, ack=False)
        assert ids(again) == names
        await bus.give_back(again[2:])
        await bus.ack(again[:2])
        assert ids(await self.collect(bus, group, 3)) == names[2:]

    async def test_d12_leaving_a_group_out_lets_nobody_overtake(self) -> None:
        """While a reader holds an event and reads for other groups, later ones of its key stay behind it.

        Trouble-shooting: a group that is left out of the next ``want`` still has its deliveries; do
        not give its partition away, or name the predecessor.
        """
        bus, groups = await self.open_with("busy", "idle")
        self.needs(bus, "ordered_by_key")
        busy, idle = groups
        other = await self.open()
        await self.publish(bus, self.event("a1", key="a"), self.event("a2", key="a"))
        held = await self.collect(bus, busy, 1, ack=False)
        await bus.read({idle: 2}, self.timing.quiet)
        got = await other.read({busy: 2}, self.timing.quiet)
        assert ids(held) == ["a1"]
        assert all(delivery.after == "a1" for delivery in got if delivery.id == "a2"), "a2 overtook a1"

    async def test_d14_readers_need_no_names(self) -> None:
        """Readers of one group that nobody named are told apart by the bus, and share the load.

        Trouble-shooting: make a consumer name per open, never from host or process id alone.
        """
        bus, group = await self.open_with()
        others = [bus.twin(), bus.twin()]
        for other in others:
            await other.open()
        try:
            await self.publish(bus, *self.events(3))
            held = [(reader, await self.collect(reader, group, 1, ack=False)) for reader in (bus, *others)]
            seen = [delivery.id for _, got in held for delivery in got]
            assert len(set(seen)) == 3, f"three readers hold {seen}"
            for reader, got in held:
                await reader.ack(got)
            await self.nothing_for(bus, {group: 3}, self.timing.lease + self.timing.quiet)
        finally:
            for other in others:
                await other.close()

    async def test_d18_a_repeated_acknowledgement_is_no_error(self) -> None:
        """Acknowledging twice, or what another reader has got meanwhile, raises nothing.

        Trouble-shooting: the worker acknowledges what the claim says is done, whoever holds it.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event())
        got = await self.collect(bus, group, 1, ack=False)
        await bus.ack(got)
        await bus.ack(got)
        await bus.ack([])
        assert await bus.extend([]) == []
        await bus.give_back([])
        await self.nothing_for(bus, {group: 1}, self.timing.lease + self.timing.quiet)

    async def test_l1_what_is_given_back_is_there_at_once(self) -> None:
        """A delivery that is given back can be read again at once, by any reader of the group.

        Trouble-shooting: do not wait for the lease; a reader that drains gives its events back.
        """

        async def attempt() -> None:
            bus, group = await self.open_with()
            other = await self.open()
            await self.publish(bus, self.event("e1"), self.event("e2"))
            begun = self.time()
            got = await self.collect(bus, group, 2, ack=False)
            await bus.give_back([delivery for delivery in got if delivery.id == "e1"])
            again = await other.read({group: 2}, self.timing.lease / 2)
            if self.time() - begun > self.timing.lease * 0.9:
                await bus.ack(got)
                await other.ack(again)
                raise Stalled
            assert ids(again) == ["e1"], f"e1 was given back, {ids(again)} came within half a lease"
            await other.ack(again)
            await bus.ack(got)
            await self.nothing_for(other, {group: 2}, self.timing.lease + self.timing.quiet)
            await bus.delete(self.topic)

        await self.patiently(attempt)

    async def test_l1_events_given_back_keep_their_content(self) -> None:
        """Giving back again and again neither loses nor changes nor multiplies an event.

        Trouble-shooting: do not publish it anew; another group would get it twice.
        """
        bus, groups = await self.open_with("first", "second", start=BEGINNING)
        first, second = groups
        event = self.event("e1", {"n": 1e22})
        await self.publish(bus, event)
        for _ in range(5):
            got = await self.collect(bus, first, 1, ack=False)
            assert (got[0].id, got[0].body) == (event.id, event.body)
            await bus.give_back(got)
        assert ids(await self.collect(bus, first, 1)) == ["e1"]
        assert ids(await self.collect(bus, second, 1)) == ["e1"]
        await self.nothing_for(bus, dict.fromkeys(groups, 5))
