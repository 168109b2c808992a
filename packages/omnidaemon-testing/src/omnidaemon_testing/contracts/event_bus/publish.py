"""Rules P1 to P9, as far as a bus alone can show them."""

from __future__ import annotations

import asyncio

from omnidaemon.model.errors import BackendError, BusFull, NotAttempted, PayloadTooLarge
from omnidaemon.model.run import Outgoing, Receipt
from omnidaemon.ports.event_bus import EventBus
from omnidaemon_testing.content import CORNERS
from omnidaemon_testing.contracts.event_bus.base import BEGINNING, BusBase, ids

__all__ = ["PublishRules"]

_SIZE_LIMIT = 512 * 1024
_TRIABLE = 32 << 20


class PublishRules(BusBase):
    """What publishing promises."""

    async def test_p1_an_awaited_publish_is_durable(self) -> None:
        """When publish has returned, the event is on the bus, whatever becomes of the publisher.

        Trouble-shooting: publish must wait for the server's confirmation; a buffer that a later
        flush or ``close`` sends is too late.
        """
        bus, group = await self.open_with()
        events = self.events(5)
        await self.publish(bus, *events)
        await bus.close()
        got = await self.collect(await self.open(), group, 5)
        assert ids(got) == [event.id for event in events]

    async def test_p1_bodies_come_back_byte_for_byte(self) -> None:
        """A bus carries bytes: whatever JSON they hold arrives as it was sent.

        Trouble-shooting: never decode and encode again on the way; store the body as binary.
        """
        bus, group = await self.open_with()
        sent = {name: self.event(content={name: value}) for name, value in CORNERS.items()}
        await self.publish(bus, *sent.values())
        got = {delivery.id: delivery.body for delivery in await self.collect(bus, group, len(sent))}
        for name, event in sent.items():
            assert got[event.id] == event.body, f"the body with {name} was changed"

    async def test_p1_receipts_name_positions(self) -> None:
        """A receipt's position is the one that deliveries carry, and no two events share it.

        Trouble-shooting: the position must be made by the server; the offset, stream id or sequence.
        """
        bus, group = await self.open_with()
        events = self.events(3)
        receipts = await self.publish(bus, *events)
        got = await self.collect(bus, group, 3)
        assert len({receipt.position for receipt in receipts}) == 3
        assert [delivery.position for delivery in got] == [receipt.position for receipt in receipts]

    async def test_p1_confirmed_events_survive_a_restart(self) -> None:
        """After a restart of the server every confirmed event is still there.

        Trouble-shooting: check the server's own persistence (appendonly, fsync, replicas) against
        the ``durability`` that the bus declares, and that the adapter connects again by itself.
        """
        bus, group = await self.open_with()
        events = self.events(20)
        await self.publish(bus, *events)
        await self.restart(bus)
        got: list[str] = []

        async def everything() -> bool:
            try:
                fresh = await bus.read({group: 20}, self.timing.quiet)
                got.extend(ids(fresh))
                await bus.ack(fresh)
            except BackendError:
                return False
            return set(got) >= {event.id for event in events}

        await self.until(everything, "all events after the restart", within=self.timing.deadline * 3)

    async def test_p3_every_group_gets_every_event(self) -> None:
        """Each group of a topic gets each event once.

        Trouble-shooting: groups must not share one queue or one cursor.
        """
        bus, groups = await self.open_with("first", "second", "third")
        events = self.events(4)
        await self.publish(bus, *events)
        for group in groups:
            got = await self.collect(bus, group, 4)
            assert ids(got) == [event.id for event in events]
            assert {delivery.group for delivery in got} == {group}
        await self.nothing_for(bus, dict.fromkeys(groups, 5))

    async def test_p3_members_of_a_group_share(self) -> None:
        """Two readers of one group get each event once between them, however they race.

        Trouble-shooting: choosing an event and noting its reader must be one atomic step.
        """
        bus, group = await self.open_with()
        other = await self.open()
        count = 40
        got: list[str] = []

        async def reader(one: EventBus, held: float) -> None:
            while self.time() < end:
                fresh = await one.read({group: 3}, self.timing.quiet)
                got.extend(ids(fresh))
                if not fresh and len(got) >= count:
                    return
                await self.sleep(held)  # as a worker would, each at its own pace
                await one.ack(fresh)

        await self.publish(bus, *self.events(count))
        end = self.time() + self.timing.deadline
        await asyncio.gather(reader(bus, self.timing.quiet / 20), reader(other, self.timing.quiet / 7))
        assert len(got) == len(set(got)), f"handed out twice: {sorted({name for name in got if got.count(name) > 1})}"
        assert len(got) == count, f"{count} events published, {len(got)} delivered"

    async def test_p4_publishing_an_id_again_is_no_error(self) -> None:
        """The same id again gives a receipt; whether it is stored twice or once, the first content is first.

        Trouble-shooting: a bus that drops duplicates must answer as for a success.
        """
        bus, group = await self.open_with()
        await self.publish(bus, self.event("twice", "first"))
        await self.publish(bus, self.event("twice", "second"), self.event("after"))
        got: list[str] = []
        first = (await self.collect(bus, group, 1))[0]
        assert first.id == "twice"
        assert b'"first"' in first.body, "the second content came first"

        async def last() -> bool:
            fresh = await bus.read({group: 5}, self.timing.quiet)
            await bus.ack(fresh)
            got.extend(ids(fresh))
            return "after" in got

        await self.until(last, "the event behind the repeated one")
        assert set(got) <= {"twice", "after"}

    async def test_p6_the_common_size_limit_fits(self) -> None:
        """An event of the size that the bus declares, at least 512 KiB, travels unchanged.

        Trouble-shooting: raise the server's and the client's own limit to ``max_event_bytes``.
        """
        bus, group = await self.open_with()
        size = min(bus.capabilities.max_event_bytes, _SIZE_LIMIT)
        event = Outgoing(self.topic, "large", b'"' + b"x" * (size - 2) + b'"')
        await self.publish(bus, event)
        assert (await self.collect(bus, group, 1))[0].body == event.body

    async def test_p6_more_than_the_limit_is_refused(self) -> None:
        """An event above ``max_event_bytes`` is ``PayloadTooLarge``, and its neighbours are stored.

        Trouble-shooting: compare sizes before anything is sent; a server that drops the connection
        over one event takes the others with it.
        """
        bus, group = await self.open_with()
        limit = bus.capabilities.max_event_bytes
        if limit > _TRIABLE:
            self.absent(bus, f"limit below {_TRIABLE} bytes")
        large = Outgoing(self.topic, "large", b"x" * (limit + 1))
        outcomes = await bus.publish([self.event("before"), large, self.event("behind")], self.timing.deadline)
        assert isinstance(outcomes[1], PayloadTooLarge), f"an event above the limit gave {outcomes[1]!r}"
        assert isinstance(outcomes[0], Receipt)
        assert isinstance(outcomes[2], Receipt)
        assert ids(await self.collect(bus, group, 2)) == ["before", "behind"]

    async def test_p7_a_full_topic_refuses_until_it_is_worked_off(self) -> None:
        """At ``topic_max_bytes`` publish answers ``BusFull`` and stores nothing of that event.

        Trouble-shooting: never make room by dropping what a group has not finished.
        """
        bus = await self.open(topic_max_bytes=20_000)
        group = self.group()
        await bus.ensure(self.topic, {group: BEGINNING})
        stored: list[str] = []
        for number in range(100):
            event = Outgoing(self.topic, f"f{number}", b'"' + b"x" * 1000 + b'"')
            outcome = (await bus.publish([event], self.timing.deadline))[0]
            if isinstance(outcome, Exception):
                assert isinstance(outcome, BusFull), f"a full topic answered {outcome!r}"
                break
            stored.append(event.id)
        else:
            raise AssertionError("100 kB went into a topic of 20 kB")
        assert stored, "nothing went into an empty topic"
        assert ids(await self.collect(bus, group, len(stored))) == stored
        await self.nothing_for(bus, {group: 5})

    async def test_p8_a_batch_has_an_outcome_for_each_event(self) -> None:
        """Publishing many keeps their order and answers for each, also across topics; none is fine.

        Trouble-shooting: outcomes are returned in the order of the batch, not of the replies.
        """
        bus, group = await self.open_with()
        _, other = await self.open_with(topic="orders.paid")
        batch = [self.event(topic=("orders.paid" if number % 3 == 0 else None)) for number in range(60)]
        await self.publish(bus, *batch)
        assert await bus.publish([], self.timing.deadline) == []
        for one in (group, other):
            expected = [event.id for event in batch if event.topic == one.topic]
            assert ids(await self.collect(bus, one, len(expected))) == expected

    async def test_p8_after_a_failure_its_key_is_not_attempted(self) -> None:
        """Behind an event that failed, events of the same key are ``NotAttempted``, others are stored.

        Trouble-shooting: storing them would let them overtake the one that is published again.
        """
        bus, group = await self.open_with()
        limit = bus.capabilities.max_event_bytes
        if limit > _TRIABLE:
            self.absent(bus, f"limit below {_TRIABLE} bytes")
        batch = [
            self.event("a1", key="a"),
            Outgoing(self.topic, "a2", b"x" * (limit + 1), "a"),
            self.event("a3", key="a"),
            self.event("b1", key="b"),
            self.event("plain"),
        ]
        outcomes = await bus.publish(batch, self.timing.deadline)
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [Receipt, PayloadTooLarge, NotAttempted, Receipt, Receipt]
        assert set(ids(await self.collect(bus, group, 3))) == {"a1", "b1", "plain"}

    async def test_p9_publishing_makes_the_topic(self) -> None:
        """A topic that nobody has made is made by its first event.

        Trouble-shooting: make it in ``publish``; a server that drops unroutable events confirms them.
        """
        bus = await self.open()
        await self.publish(bus, self.event(topic="brand.new"))
        assert await bus.topics() == ["brand.new"]
        assert (await bus.info("brand.new")).length.value in (1, None)
