"""Rules P2, P7 and H1: where groups begin, what is kept, and reading it without a group."""

from __future__ import annotations

from omnidaemon.model.errors import UnsupportedCapability
from omnidaemon.model.run import Outgoing, Receipt, Start
from omnidaemon.ports.event_bus import EventBus
from omnidaemon_testing.contracts.event_bus.base import BEGINNING, NOW, BusBase, ids

__all__ = ["HistoryRules"]


class HistoryRules(BusBase):
    """What is kept, and from where it can be read."""

    async def past(self, bus: EventBus, start: Start = BEGINNING, end: Start = NOW) -> list[tuple[str, bytes]]:
        """Return a topic's history."""
        return [entry async for entry in bus.history(self.topic, start, end)]

    async def spaced(self, bus: EventBus) -> tuple[list[Outgoing], list[Receipt], float]:
        """Publish e1, e2, and clearly later e3, e4; also return a time in between."""
        events = self.events(4)
        receipts = await self.publish(bus, *events[:2])
        await self.sleep(self.timing.quiet)
        middle = self.clock.time()
        await self.sleep(self.timing.quiet)
        return events, receipts + await self.publish(bus, *events[2:]), middle

    async def test_p2_a_late_group_gets_what_was_published_before(self) -> None:
        """A group made after the events, starting at the beginning, gets them all and what follows.

        Trouble-shooting: keep what is published without a group; on a queue-based bus copy the log
        into the new queue (a repeated event meets the claim).
        """
        bus = await self.open()
        self.needs(bus, "late_groups")
        group = self.group("late")
        await self.publish(bus, *[self.event(f"e{number}") for number in range(5)])
        await bus.ensure(self.topic, {group: BEGINNING})
        await self.publish(bus, self.event("e5"))
        got: set[str] = set()

        async def everything() -> bool:
            fresh = await bus.read({group: 10}, self.timing.quiet)
            await bus.ack(fresh)
            got.update(ids(fresh))
            return got == {f"e{number}" for number in range(6)}

        await self.until(everything, "the five early events and the later one")

    async def test_p2_a_group_can_start_now(self) -> None:
        """A group that starts now gets nothing of what was published before it, and all that follows.

        Trouble-shooting: fix the position when ``ensure`` returns, not at the first read.
        """
        bus = await self.open()
        group = self.group("late")
        await self.publish(bus, self.event("before"))
        await bus.ensure(self.topic, {group: NOW})
        await self.publish(bus, self.event("behind"))
        assert ids(await self.collect(bus, group, 1)) == ["behind"]
        await self.nothing_for(bus, {group: 5})

    async def test_p2_a_group_can_start_at_a_position(self) -> None:
        """A group that starts at a position gets that event first.

        Trouble-shooting: the start is inclusive; many servers mean "behind it".
        """
        bus = await self.open()
        self.needs(bus, "history")
        group = self.group("late")
        receipts = await self.publish(bus, *[self.event(f"e{number}") for number in range(4)])
        await bus.ensure(self.topic, {group: Start("position", position=receipts[2].position)})
        assert ids(await self.collect(bus, group, 2)) == ["e2", "e3"]
        await self.nothing_for(bus, {group: 5})

    async def test_p2_a_group_can_start_at_a_time(self) -> None:
        """A group that starts at a time gets what was published from then on.

        Trouble-shooting: look the position up by the server's own time stamps.
        """
        bus = await self.open()
        self.needs(bus, "history_by_time")
        group = self.group("late")
        events, _, middle = await self.spaced(bus)
        await bus.ensure(self.topic, {group: Start("time", time=middle)})
        assert ids(await self.collect(bus, group, 2)) == [event.id for event in events[2:]]
        await self.nothing_for(bus, {group: 5})

    async def test_p2_without_history_by_time_a_start_at_a_time_is_refused(self) -> None:
        """A bus that cannot start at a time says so instead of starting somewhere else.

        Trouble-shooting: raise ``UnsupportedCapability``, or declare ``history_by_time``.
        """
        bus = await self.open()
        if bus.capabilities.history_by_time:
            return
        async with self.refusal(UnsupportedCapability):
            await bus.ensure(self.topic, {self.group("late"): Start("time", time=self.clock.time())})

    async def test_p2_making_a_group_again_keeps_its_position(self) -> None:
        """``ensure`` of a group that is there changes nothing, whatever start it names.

        Trouble-shooting: every worker calls it at every start.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event("e1"), self.event("e2"))
        assert ids(await self.collect(bus, group, 1)) == ["e1"]
        other = await self.open()
        await other.ensure(self.topic, {group: BEGINNING, self.group("other"): BEGINNING})
        await other.ensure(self.topic, {group: NOW})
        assert ids(await self.collect(other, group, 1)) == ["e2"]
        await self.nothing_for(bus, {group: 5})

    async def test_p7_trimming_spares_what_a_group_has_not_finished(self) -> None:
        """Only what EVERY group has acknowledged is removed; unread or merely read events stay.

        Trouble-shooting: the limit is the oldest unfinished event over all groups, not the newest
        read one.
        """
        bus, groups = await self.open_with("fast", "slow")
        self.needs(bus, "trim")
        fast, slow = groups
        await self.publish(bus, *[self.event(f"e{number}") for number in range(4)])
        assert len(await self.collect(bus, fast, 4)) == 4
        assert ids(await self.collect(bus, slow, 1)) == ["e0"]
        held = await self.collect(bus, slow, 1, ack=False)
        removed = await bus.trim(self.topic, self.clock.time() + 3600)
        assert removed <= 1, f"{removed} events were removed, only one is finished by both groups"
        await bus.give_back(held)
        assert ids(await self.collect(bus, slow, 3)) == ["e1", "e2", "e3"]

    async def test_p7_trimming_removes_what_is_old_and_finished(self) -> None:
        """What every group has finished goes if it was published before the given time, and is counted.

        Trouble-shooting: compare with the server's time of publication.
        """
        bus, group = await self.open_with()
        self.needs(bus, "trim")
        events, _, middle = await self.spaced(bus)
        await self.collect(bus, group, 4)
        assert await bus.trim(self.topic, middle) == 2, "two events were published before that time"
        if bus.capabilities.history:
            assert [body for _, body in await self.past(bus)] == [event.body for event in events[2:]]
        assert await bus.trim(self.topic, middle) == 0

    async def test_p7_without_trim_trimming_is_refused(self) -> None:
        """A bus that cannot trim says so.

        Trouble-shooting: raise ``UnsupportedCapability``, or declare ``trim``.
        """
        bus, _ = await self.open_with()
        if bus.capabilities.trim:
            return
        async with self.refusal(UnsupportedCapability):
            await bus.trim(self.topic, self.clock.time())

    async def test_h1_history_gives_everything_in_order(self) -> None:
        """History from the beginning gives every event once, in order, unchanged, over many pages.

        Trouble-shooting: look at the edge between two pages; one event too many or too few there.
        """
        bus = await self.open()
        self.needs(bus, "history")
        events = self.events(1203)
        receipts = [
            receipt for at in range(0, 1203, 200) for receipt in await self.publish(bus, *events[at : at + 200])
        ]
        assert await self.past(bus) == [
            (receipt.position, event.body) for receipt, event in zip(receipts, events, strict=True)
        ]

    async def test_h1_history_can_start_and_end_at_positions(self) -> None:
        """Both ends are inclusive; an end of ``now`` is the last event there is when it begins.

        Trouble-shooting: "now" must be fixed before the first page, or a busy topic never ends.
        """
        bus = await self.open()
        self.needs(bus, "history")
        events = self.events(6)
        marks = [Start("position", position=receipt.position) for receipt in await self.publish(bus, *events)]
        bodies = [event.body for event in events]
        assert [body for _, body in await self.past(bus, marks[2])] == bodies[2:]
        assert [body for _, body in await self.past(bus, marks[1], marks[3])] == bodies[1:4]
        assert [body for _, body in await self.past(bus, marks[5], marks[5])] == bodies[5:]
        assert await self.past(bus, NOW) == []
        reading = []
        async for _, body in bus.history(self.topic, BEGINNING, NOW):
            reading.append(body)
            if len(reading) == 1:
                await self.publish(bus, self.event("later"))
        assert reading == bodies

    async def test_h1_history_can_start_and_end_at_times(self) -> None:
        """History from a time on, and up to a time.

        Trouble-shooting: compare with the server's time of publication.
        """
        bus = await self.open()
        self.needs(bus, "history_by_time")
        events, _, middle = await self.spaced(bus)
        bodies = [event.body for event in events]
        assert [body for _, body in await self.past(bus, Start("time", time=middle))] == bodies[2:]
        assert [body for _, body in await self.past(bus, BEGINNING, Start("time", time=middle))] == bodies[:2]

    async def test_h1_without_history_reading_it_is_refused(self) -> None:
        """A bus that keeps no history says so, as does one that cannot read it by time.

        Trouble-shooting: raise ``UnsupportedCapability``; an empty history would read as "nothing lost".
        """
        bus, _ = await self.open_with()
        await self.publish(bus, self.event())
        if not bus.capabilities.history:
            async with self.refusal(UnsupportedCapability):
                await self.past(bus)
        elif not bus.capabilities.history_by_time:
            async with self.refusal(UnsupportedCapability):
                await self.past(bus, Start("time", time=self.clock.time()))

    async def test_h2_reading_history_moves_no_group(self) -> None:
        """Groups get what they would have got, whoever reads the history meanwhile.

        Trouble-shooting: read without a group, or with one that nobody else uses and nobody sees.
        """
        bus, group = await self.open_with()
        self.needs(bus, "history")
        await self.publish(bus, *[self.event(f"e{number}") for number in range(3)])
        assert ids(await self.collect(bus, group, 1)) == ["e0"]
        assert len(await self.past(bus)) == 3
        assert [info.group for info in (await bus.info(self.topic)).groups] == [group]
        assert ids(await self.collect(bus, group, 2)) == ["e1", "e2"]
        await self.nothing_for(bus, {group: 5})

    async def test_h1_the_history_of_an_unknown_topic_is_empty(self) -> None:
        """Reading a topic that is not there gives nothing and does not make it.

        Trouble-shooting: the server's "no such stream" is no error here.
        """
        bus = await self.open()
        self.needs(bus, "history")
        assert [entry async for entry in bus.history("never.made", BEGINNING, NOW)] == []
        assert await bus.topics() == []
