"""Rules P5, D18, S12 and M11: follow-ups and delayed events."""

from __future__ import annotations

import asyncio

from omnidaemon.model.run import Deferred, GrantKind, Outgoing
from omnidaemon_testing.content import event_bytes
from omnidaemon_testing.contracts.store.base import RETRY, StoreBase

__all__ = ["OutboxRules"]

_NOT_DUE = 60.0


class OutboxRules(StoreBase):
    """What the store will have published."""

    def later(
        self,
        event_id: str,
        delay: float = 0.0,
        *,
        key: str | None = None,
        topic: str = "next.topic",
        deliver_at: float | None = None,
    ) -> Deferred:
        """Return an event to be published later, by default with a key of its own."""
        key = f"key of {event_id}" if key is None else key
        return Deferred(Outgoing(topic, event_id, event_bytes(event_id, topic, 1e22), key), delay, deliver_at)

    async def test_p5_a_delayed_event_is_relayed_when_it_is_due(self) -> None:
        """A delayed event is handed to a relay at its time on the store's clock: never early, soon after.

        Trouble-shooting: compare in the step that leases; ``next_in`` wakes the relay.
        """
        store = await self.open()
        delay, begun = self.timing.lease, self.time()
        at = await store.now() + delay
        assert await store.defer([self.later("by delay", delay), self.later("by time", deliver_at=at)]) == [True, True]
        rows, next_in = await store.outbox("relay", 10, 60)
        assert rows == []
        assert next_in is not None, "the outbox says when something is due"
        assert next_in <= delay
        got: dict[str, Outgoing] = {}

        async def both() -> bool:
            got.update({row.id: row for row in (await store.outbox("relay", 10, 60))[0]})
            return len(got) == 2

        await self.until(both, "both delayed events", within=delay + min(1.0, self.timing.slack))
        elapsed = self.time() - begun
        assert elapsed >= delay * 0.98, f"relayed {delay - elapsed:.3f} s early"
        sent = self.later("by delay").event
        assert (got["by delay"].topic, got["by delay"].body, got["by delay"].key) == (sent.topic, sent.body, sent.key)

    async def test_p5_later_events_are_not_held_up(self) -> None:
        """A far event does not keep a near one, and due ones come earliest first.

        Trouble-shooting: order by due time.
        """
        store = await self.open()
        rows = [self.later("far", _NOT_DUE, key="k"), self.later("second", 0.03, key="k"), self.later("first", 0.01)]
        await store.defer([*rows, self.later("before", 0.02, key="k")])
        await self.sleep(0.06)
        due, next_in = await store.outbox("relay", 10, 60)
        assert [row.id for row in due] == ["first", "before", "second"]
        assert next_in is not None
        assert _NOT_DUE / 2 < next_in <= _NOT_DUE

    async def test_m11_a_waiting_id_is_accepted_once(self) -> None:
        """An event whose id waits already is not accepted again, and the first content stays.

        Trouble-shooting: insert unless it is there, in one step.
        """
        store = await self.open()
        other = await self.open()
        again = self.later("e1", 0.01)
        again.event.body = b'"second"'
        assert await store.defer([self.later("e1", 0.01)]) == [True]
        assert await other.defer([again, self.later("e2", 0.01)]) == [False, True]
        await self.sleep(0.05)
        rows, _ = await store.outbox("relay", 10, 60)
        assert {row.id: row.body for row in rows} == {name: self.later(name).event.body for name in ("e1", "e2")}

    async def test_m11_a_row_is_leased_to_one_relay(self) -> None:
        """Of several relays one gets each row; when it dies, another gets it after the lease.

        Trouble-shooting: choosing rows and leasing them must be one atomic step.
        """
        store = await self.open()
        stores = [store, await self.open(), await self.open()]
        names = {f"e{number}" for number in range(30)}
        await store.defer([self.later(name) for name in names])
        begun = self.time()
        got = await asyncio.gather(*(stores[n % 3].outbox(f"r{n}", 10, self.timing.lease) for n in range(9)))
        handed = [row.id for rows, _ in got for row in rows]
        assert len(handed) == len(set(handed)), "a row was leased to two relays"
        assert set(handed) == names
        await store.sent([row for rows, _ in got for row in rows if row.id != "e7"])

        async def again() -> list[Outgoing]:
            return (await store.outbox("other", 10, 60))[0]

        rows = await self.until(again, "the row whose relay died", within=self.timing.lease + self.timing.slack)
        assert self.time() - begun >= self.timing.lease * 0.95, "leased again before its lease was over"
        assert [row.id for row in rows] == ["e7"]

    async def test_s12_a_row_is_kept_until_its_publish_is_confirmed(self) -> None:
        """Rows go when they are confirmed, not when they are handed out; confirming twice is no error.

        Trouble-shooting: delete in ``sent`` only.
        """
        store = await self.open()
        await store.defer([self.later("e1"), self.later("e2")])
        rows, _ = await store.outbox("relay", 10, 0.02)
        assert {row.id for row in rows} == {"e1", "e2"}
        await store.sent([row for row in rows if row.id == "e1"])
        await store.sent([row for row in rows if row.id == "e1"])
        await self.sleep(0.05)
        again, _ = await store.outbox("other", 10, 60)
        assert [row.id for row in again] == ["e2"]
        await store.sent(again)
        assert await store.outbox("other", 10, 60) == ([], None)

    async def test_s12_a_relay_takes_no_more_than_it_asks_for(self) -> None:
        """``outbox`` keeps to its limit and says 0 when more is due.

        Trouble-shooting: what is leased to nobody must stay due.
        """
        store = await self.open()
        await store.defer([self.later(f"e{number}") for number in range(402)])
        handed: set[str] = set()
        for limit in (2, 100, 200):
            rows, next_in = await store.outbox("relay", limit, 60)
            assert (len(rows), next_in) == (limit, 0)
            handed.update(row.id for row in rows)
        handed.update(row.id for row in (await store.outbox("relay", 1000, 60))[0])
        assert len(handed) == 402

    async def test_s12_a_failed_row_holds_only_its_key(self) -> None:
        """What is behind an unsent row of its topic and key waits for it; everything else goes on.

        Earlier is what is due earlier, then what was accepted earlier. Rows that one relay gets in one
        call are in order.

        Trouble-shooting: a row is to be had when no earlier one of its key is leased; what waits behind
        one is not due either, or relays would ask without a pause.
        """
        store = await self.open()
        await store.defer([self.later("k1", key="k")])
        lease, begun = self.timing.lease * 2, self.time()
        failing, _ = await store.outbox("failing", 10, lease)
        assert [event.id for event in failing] == ["k1"]
        free = [self.later("other", key="k:"), self.later("none"), self.later("topic", key="k", topic="next")]
        free[1].event.key = None
        await store.defer([self.later("k2", key="k"), *free, self.later("k3", key="k")])
        rows, next_in = await store.outbox("relay", 10, 60)
        assert {event.id for event in rows} == {"other", "none", "topic"} or self.time() - begun > lease * 0.9
        assert next_in is not None
        assert next_in > 0 or self.time() - begun > lease * 0.9, "what waits behind a row is not due"
        await store.sent(rows)

        async def again() -> list[Outgoing]:
            return (await store.outbox("relay", 2, 60))[0]

        rows = await self.until(again, "the row that was not sent", within=lease + self.timing.slack)
        assert [event.id for event in rows] == ["k1", "k2"]
        assert (await store.outbox("relay", 10, 60))[0] == []
        await store.sent(rows[:1])
        assert (await store.outbox("relay", 10, 60))[0] == []
        await store.sent(rows[1:])
        rows, _ = await store.outbox("relay", 10, 60)
        assert [event.id for event in rows] == ["k3"]
        await store.sent(rows)
        assert await store.outbox("relay", 10, 60) == ([], None)

    async def test_s12_a_failed_row_does_not_hold_those_before_it(self) -> None:
        """A row that is due earlier than an unsent one of its key is handed out, whenever it came.

        Trouble-shooting: compare by due time, then by acceptance.
        """
        store, group = await self.open_with()
        now = await store.now()
        await store.defer([self.later("second", key="k", deliver_at=now - 10)])
        rows, _ = await store.outbox("failing", 10, 60)
        assert [row.id for row in rows] == ["second"]
        await self.settled(store, group, await self.granted(store, group), outbox=[self.later("third", key="k")])
        await store.defer([self.later("first", key="k", deliver_at=now - 20), self.later("far", _NOT_DUE, key="k")])
        rows, _ = await store.outbox("relay", 10, 60)
        assert [row.id for row in rows] == ["first"]

    async def test_d18_follow_ups_are_those_of_accepted_outcomes(self) -> None:
        """Follow-ups are kept with an accepted settle and dropped with a refused one.

        Trouble-shooting: write them in the settling step, after the token was compared.
        """
        store, group = await self.open_with()
        late = await self.granted(store, group, lease=0.02)
        await self.sleep(0.05)
        owner = await self.granted(store, group, worker="w2")
        assert not await self.settle(store, group, late, outbox=[self.later("late", 0.001)])
        await self.settled(store, group, owner, outbox=[self.later("right", 0.001)])
        retried = await self.granted(store, group, "e2")
        await self.settled(store, group, retried, RETRY, attempt=2, delay=60, outbox=[self.later("of a retry", 0.001)])
        await self.sleep(0.02)
        rows, _ = await store.outbox("relay", 10, 60)
        assert {row.id for row in rows} == {"right", "of a retry"}

    async def test_d18_a_finished_run_tells_whether_follow_ups_wait(self) -> None:
        """A redelivery that meets FINISHED learns that its follow-ups are unsent, until they are sent.

        Trouble-shooting: the outbox row names the run that wrote it.
        """
        store, group = await self.open_with()
        for name, outbox in (("with", [self.later("f1", 0.001), self.later("f2", _NOT_DUE)]), ("without", [])):
            await self.settled(store, group, await self.granted(store, group, name), outbox=outbox)
        assert (await self.refused(store, group, GrantKind.FINISHED, "with")).unsent
        assert not (await self.refused(store, group, GrantKind.FINISHED, "without")).unsent
        await store.sent([self.later("f1").event])
        assert (await self.refused(store, group, GrantKind.FINISHED, "with")).unsent
        await store.sent([self.later("f2").event])
        assert not (await self.refused(store, group, GrantKind.FINISHED, "with")).unsent

    async def test_m11_a_fresh_follow_up_is_its_settler_s(self) -> None:
        """Who settles publishes the follow-ups itself: no relay gets them for some seconds.

        Trouble-shooting: lease them when they are written, or they are published twice.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group), outbox=[self.later("f1")])
        rows, next_in = await store.outbox("relay", 10, 60)
        assert rows == []
        assert next_in is not None, "if the settling worker dies, a relay has to come"
        assert 1 < next_in <= 60

    async def test_p5_a_delayed_follow_up_is_anybody_s(self) -> None:
        """A follow-up that is due later is relayed when it is due, by delay or by time, whoever settled it.

        Trouble-shooting: only what is due at once is leased to the settling worker.
        """
        store, group = await self.open_with()
        delay = self.timing.lease / 2
        at = await store.now() + delay
        rows = [self.later("by delay", delay), self.later("by time", deliver_at=at)]
        await self.settled(store, group, await self.granted(store, group), outbox=rows)
        got: set[str] = set()

        async def both() -> bool:
            got.update(row.id for row in (await store.outbox("relay", 10, 60))[0])
            return len(got) == 2

        await self.until(both, "both delayed follow-ups", within=delay + min(1.0, self.timing.slack))
