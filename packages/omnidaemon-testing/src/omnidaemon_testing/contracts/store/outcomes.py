"""Rules D6, D11, M10, S9, S10 and T2: how attempts end."""

from __future__ import annotations

import asyncio

from omnidaemon.model.run import Deferred, Grant, GrantKind, Group, Outcome, Outgoing, TaskState
from omnidaemon.ports.store import Store
from omnidaemon_testing.content import corner_bytes
from omnidaemon_testing.contracts.store.base import FINAL, HANDBACK, RETRY, StoreBase, event_ids, same_json

__all__ = ["OutcomeRules"]


class OutcomeRules(StoreBase):
    """Settling: retries, lost starts, exact counts."""

    async def test_d1_a_settled_outcome_is_kept_whole(self) -> None:
        """State, result, data, event and tenant of an accepted outcome are in the record.

        Trouble-shooting: an accepted settle is confirmed by the server, not only sent.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        working = await self.must_have(store, group)
        assert (working.state, working.worker, working.starts) == (TaskState.WORKING, "w1", 1)
        await self.settled(store, group, grant, result=corner_bytes(), data=b'{"took":1.5}', tenant="acme")
        record = await self.must_have(await self.open(), group)
        assert (record.state, record.group, record.event_id) == (TaskState.COMPLETED, group, "e1")
        assert same_json(record.result, corner_bytes())
        assert (record.data, record.tenant, record.body) == (b'{"took":1.5}', "acme", self.body())
        assert record.worker is None
        assert record.dead is None
        assert record.created <= record.updated <= await store.now() + 0.01

    async def test_d6_a_retry_is_due_when_it_says(self) -> None:
        """A retry is handed out after its delay, never early, soon after; other runs are not held up.

        Trouble-shooting: the due time is computed once, on the store's clock, when it is settled.
        """
        store, group = await self.open_with()
        delay = self.timing.lease
        first, other = await self.granted(store, group, "later"), await self.granted(store, group, "now")
        begun = self.time()
        await self.settled(store, group, first, RETRY, attempt=2, delay=delay, data=b'{"tried":1}')
        await self.settled(store, group, other, RETRY, attempt=3, delay=0)
        got = await self.due(store, group)
        assert [(grant.event_id, grant.attempt) for grant in got] == [("now", 3)]
        waiting = await self.must_have(store, group, "later")
        assert waiting.state is TaskState.SUBMITTED
        assert waiting.due is not None, "a record says when its retry is due"
        assert abs(waiting.due - waiting.updated - delay) < 0.01
        answer = await self.due_all(store, group)
        assert answer.next_in is not None, "due says when something else is due"
        assert answer.next_in <= delay
        grants = await self.until_due(store, group, within=delay + min(1.0, self.timing.slack))
        elapsed = self.time() - begun
        assert elapsed >= delay * 0.98, f"handed out {delay - elapsed:.3f} s early"
        retry = grants[0]
        assert (retry.event_id, retry.attempt, retry.generation, retry.lost) == ("later", 2, 0, 0)
        assert (retry.data, retry.body) == (b'{"tried":1}', self.body("later"))
        assert retry.state is not TaskState.INPUT_REQUIRED, "that would say: unanswered"

    async def test_d6_an_attempt_exists_once(self) -> None:
        """While a retry waits, no redelivery runs it: the claim reads HELD, and adopting changes nothing.

        Trouble-shooting: adopting must not touch the due time of a run that the inbox holds.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group), RETRY, attempt=2, delay=60)
        await self.refused(store, group, GrantKind.HELD)
        assert await self.adopted(store, group)
        assert await self.due(store, group) == []
        record = await self.must_have(store, group)
        assert record.due is not None
        assert record.due > await store.now() + 30

    async def test_d6_due_gives_the_oldest_first_and_keeps_to_its_limit(self) -> None:
        """Runs are handed out by due time; ``next_in`` is None when nothing waits, 0 when more is due.

        Trouble-shooting: order by the due time, not by id or insertion.
        """
        store, group = await self.open_with()
        assert (await self.due_all(store, group)).next_in is None
        for name, delay in (("third", 0.3), ("first", 0.1), ("second", 0.2)):
            await self.settled(store, group, await self.granted(store, group, name), RETRY, attempt=2, delay=delay / 4)
        await self.sleep(0.1)
        answer = await self.due_all(store, group, 2)
        assert event_ids(answer.grants[group]) == ["first", "second"]
        assert answer.next_in == 0
        assert await self.due(store, group, 0) == []
        assert event_ids(await self.due(store, group)) == ["third"]

    async def test_d2_each_group_has_its_own_inbox(self) -> None:
        """``due`` answers for the groups it is asked for, each within its limit.

        Trouble-shooting: the index of the inbox begins with the whole group, epoch included.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        for group in groups:
            for name in ("e1", "e2", "e3"):
                await self.adopted(store, group, name)
        assert len(await self.due(store, first, 2)) == 2
        assert len(await self.due(store, second, 10)) == 3
        assert len(await self.due(store, first, 10)) == 1

    async def test_d11_lost_starts_are_counted(self) -> None:
        """A start whose claim expired counts as lost; settled, handed-back and repeated ones do not.

        Trouble-shooting: count when an expired claim is taken over, in the same step.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        await self.settled(store, group, grant, HANDBACK)
        again = await self.granted(store, group)
        assert (again.lost, again.attempt) == (0, 1)
        record = await self.must_have(store, group)
        assert record.starts == 1, "a run that was given back unrun was not started"
        await self.settled(store, group, again, RETRY, attempt=2, delay=0)
        third = await self.due_one(store, group, lease=0.02)
        assert third.lost == 0
        await self.sleep(0.05)
        fourth = await self.due_one(store, group)
        assert (fourth.lost, fourth.attempt) == (1, 2)
        record = await self.must_have(store, group)
        assert (record.starts, record.lost) == (3, 1)

    async def lose(self, store: Store, group: Group, event_id: str, times: int) -> None:
        """Start a fresh run that often without an outcome."""
        for number in range(times):
            await self.granted(store, group, event_id, f"dead{number}", lease=0.02)
            await self.sleep(0.05)

    async def test_m10_a_suspect_runs_alone(self) -> None:
        """After two lost starts a run reads SUSPECT, and the inbox gives it only to a worker that is alone.

        Trouble-shooting: the second loss decides, also when it is noticed while handing out.
        """
        store, group = await self.open_with()
        await self.lose(store, group, "bad", 2)
        await self.refused(store, group, GrantKind.SUSPECT, "bad")
        assert await self.adopted(store, group, "bad")
        await self.adopted(store, group, "good")
        busy = await self.due_all(store, group)
        assert event_ids(busy.grants.get(group, [])) == ["good"]
        assert group in busy.suspects, "a worker must learn that a suspect waits"
        assert await self.due(store, group) == [], "handed to a worker that is not alone"
        alone = await self.due(store, group, alone=True)
        assert [(grant.event_id, grant.lost) for grant in alone] == [("bad", 2)]
        await self.settled(store, group, alone[0], body=None)
        assert not (await self.due_all(store, group)).suspects

    async def test_m10_one_suspect_at_a_time(self) -> None:
        """A worker that is alone gets one suspect, and none together with other runs.

        Trouble-shooting: count what the call has handed out already, over all its groups.
        """
        store, group = await self.open_with()
        for name in ("bad1", "bad2"):
            await self.lose(store, group, name, 2)
            assert (await self.claim(store, group, name, "w9")).kind is GrantKind.SUSPECT
            await self.adopted(store, group, name)
        await self.adopted(store, group, "good")
        assert event_ids(await self.due(store, group, alone=True)) == ["good"]
        first = await self.due(store, group, alone=True, call="c1")
        assert len(first) == 1
        assert first == await self.due(store, group, alone=True, call="c1")
        assert {first[0].event_id, *event_ids(await self.due(store, group, alone=True))} == {"bad1", "bad2"}

    async def test_m10_an_inbox_run_becomes_a_suspect_too(self) -> None:
        """The second lost start of a run that the inbox hands out makes it a suspect at once.

        Trouble-shooting: look at the count after adding this loss to it.
        """
        store, group = await self.open_with()
        await self.adopted(store, group)
        for _ in range(2):
            assert event_ids(await self.due(store, group, lease=0.02)) == ["e1"]
            await self.sleep(0.05)
        answer = await self.due_all(store, group)
        assert answer.grants.get(group, []) == []
        assert event_ids(await self.due(store, group, alone=True)) == ["e1"]

    async def test_s9_a_repeated_settle_changes_nothing(self) -> None:
        """The same outcome again, after a lost reply, is accepted and neither counted nor sent twice.

        Trouble-shooting: keep the token of the last accepted settle with the run.
        """
        store, group = await self.open_with()
        follow_up = Deferred(Outgoing("next", "f1", b"{}"), delay=0.001)
        grant = await self.granted(store, group, "done")
        for _ in range(3):
            await self.settled(store, group, grant, result=b"1", counts=[("done", 1)], outbox=[follow_up])
        retried = await self.granted(store, group, "again")
        for _ in range(3):
            await self.settled(store, group, retried, RETRY, attempt=2, delay=60, counts=[("retried", 1)])
        assert await self.counts(store, group) == {"done": 1, "retried": 1}
        assert (await self.must_have(store, group, "again")).attempt == 2
        await self.sleep(0.02)
        assert [row.id for row in (await store.outbox("relay", 10, 60))[0]] == ["f1"]

    async def test_m1_each_member_of_a_batch_answers_for_itself(self) -> None:
        """In one settle some outcomes are accepted, some repeated, some refused.

        Trouble-shooting: half of a batch may have been applied before; never answer for all at once.
        """
        store, group = await self.open_with()
        names = [f"e{number}" for number in range(6)]
        grants = [await self.granted(store, group, name) for name in names]
        outcomes = [
            Outcome(group, grant.event_id, grant.token, FINAL, body=self.body(), counts=[("done", 1)])
            for grant in grants
        ]
        assert await store.settle(outcomes[:3]) == [True, True, True]
        outcomes[4].token = self.token()
        assert await store.settle(outcomes) == [True, True, True, True, False, True]
        assert await self.counts(store, group) == {"done": 5}
        assert await store.settle([]) == []

    async def test_s10_an_outcome_is_seen_whole_or_not_at_all(self) -> None:
        """Who sees a run finished sees its result, its counts and its follow-ups too.

        Trouble-shooting: one transaction or script per run; no reader may come in between.
        """
        store, group = await self.open_with()
        reader = await self.open()
        count = 40
        grants = [await self.granted(store, group, f"e{number}") for number in range(count)]

        async def write(grant: Grant) -> None:
            follow_up = Deferred(Outgoing("next", f"f-{grant.event_id}", b"{}"), delay=60)
            await self.settled(store, group, grant, result=b"1", counts=[("done", 1)], outbox=[follow_up])

        async def read() -> None:
            seen = 0
            while seen < count:
                name = f"e{seen}"
                record = await self.must_have(reader, group, name)
                if record.state is TaskState.COMPLETED:
                    assert record.result == b"1", "finished, and no result"
                    again = await self.claim(reader, group, name)
                    assert (again.kind, again.unsent) == (GrantKind.FINISHED, True), "finished, and no follow-up"
                    assert (await self.counts(reader, group)).get("done", 0) > seen, "finished, and not counted"
                    seen += 1
                await asyncio.sleep(0)

        async def write_all() -> None:
            for grant in grants:
                await write(grant)
                await asyncio.sleep(0)

        await asyncio.gather(read(), write_all())

    async def test_t2_counts_are_exact(self) -> None:
        """Counts add up over workers, names and agents, from accepted outcomes only.

        Trouble-shooting: add in the settling step; never read, add and write from the client.
        """
        store, groups = await self.open_with("first", "second")
        stores = [store, await self.open(), await self.open()]
        first, second = groups

        async def work(number: int) -> None:
            group, mine = groups[number % 2], stores[number % 3]
            grant = await self.granted(mine, group, f"e{number}", f"w{number}")
            counts = [("done", 1.0), ("seconds", 0.25), (f"latency:{number % 3}", 1.0)]
            await self.settled(mine, group, grant, counts=counts)
            assert await self.settle(mine, group, grant, counts=counts)
            grant.token = self.token()
            assert not await self.settle(mine, group, grant, counts=counts)

        await asyncio.gather(*(work(number) for number in range(60)))
        for group in groups:
            assert await self.counts(store, group) == {
                "done": 30,
                "seconds": 7.5,
                **{f"latency:{number}": 10 for number in range(3)},
            }
        rows = await store.metrics(self.topic)
        assert sorted((row.topic, row.agent, row.counts["done"]) for row in rows) == [
            (self.topic, "first", 30),
            (self.topic, "second", 30),
        ]
        assert first != second

    async def test_t2_counts_can_be_asked_for_by_time(self) -> None:
        """Counts are kept by the minute: a range that holds now has them, one that does not has none.

        Trouble-shooting: minutes are those of the store's clock, and the end of a range is exclusive.
        """
        store, group = await self.open_with()
        follow_up = Deferred(Outgoing("next.topic", "f1", b"{}"))
        await self.settled(store, group, await self.granted(store, group), counts=[("done", 1)], outbox=[follow_up])
        now = await store.now()
        inside = await store.metrics(group.topic, group.agent, since=now - 600, until=now + 600)
        assert [row.counts for row in inside] == [{"done": 1}]
        assert [row.counts for row in await store.metrics(since=now - 600)] == [{"done": 1}]
        for since, until in ((now - 7200, now - 3600), (now + 3600, now + 7200)):
            rows = await store.metrics(group.topic, group.agent, since=since, until=until)
            assert not any(value for row in rows for value in row.counts.values())

    async def test_t2_the_contents_of_a_group_are_counted(self) -> None:
        """``count`` gives what is in the inbox, what works, what waits for an answer and what is dead.

        Trouble-shooting: these are exact; count from the records or keep a set per state.
        """
        store, group = await self.open_with()
        assert await store.count(group) == {"inbox": 0, "working": 0, "dead_letters": 0, "waiting": 0}
        for name in ("in1", "in2", "in3"):
            await self.adopted(store, group, name)
        await self.granted(store, group, "work1")
        await self.dead(store, group, "dead1")
        await self.dead(store, group, "dead2")
        await self.settled(store, group, await self.granted(store, group, "done"))
        assert await store.count(group) == {"inbox": 3, "working": 1, "dead_letters": 2, "waiting": 0}
