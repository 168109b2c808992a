"""Rules S3, D3, D4, D5, M1, M2, M3 and M14: who may run an event, and for how long."""

from __future__ import annotations

import asyncio

from omnidaemon.model.run import Ask, GrantKind, TaskState
from omnidaemon_testing.contracts.base import Stalled
from omnidaemon_testing.contracts.store.base import HANDBACK, RETRY, StoreBase, event_ids

__all__ = ["ClaimRules"]


class ClaimRules(StoreBase):
    """Claims, leases and fences."""

    async def test_s3_a_claim_has_one_winner(self) -> None:
        """Of many that ask for a run at the same time, one gets it and the others read BUSY.

        Trouble-shooting: reading the claim and writing it must be one atomic step on the server.
        """
        store, group = await self.open_with()
        stores = [store, await self.open(), await self.open()]
        names = [f"e{number}" for number in range(10)]

        async def ask(number: int) -> list[GrantKind]:
            asks = [Ask(group, name, f"t{number}.{name}", 60.0) for name in names]
            return [grant.kind for grant in await stores[number % 3].claim(f"w{number}", asks)]

        answers = await asyncio.gather(*(ask(number) for number in range(12)))
        for at, name in enumerate(names):
            kinds = [answer[at] for answer in answers]
            assert kinds.count(GrantKind.GRANTED) == 1, f"{name} was granted {kinds.count(GrantKind.GRANTED)} times"
            assert kinds.count(GrantKind.BUSY) == 11

    async def test_s3_due_has_one_winner(self) -> None:
        """Of many workers that ask the inbox at the same time, one gets each run.

        Trouble-shooting: finding what is due and claiming it must be one atomic step.
        """
        store, group = await self.open_with()
        stores = [store, await self.open(), await self.open()]
        names = [f"e{number}" for number in range(30)]
        for name in names:
            await self.adopted(store, group, name)
        got = await asyncio.gather(*(self.due(stores[n % 3], group, 10, worker=f"w{n}") for n in range(9)))
        handed = [event_id for grants in got for event_id in event_ids(grants)]
        assert len(handed) == len(set(handed)), "the inbox handed one run to two workers"
        assert set(handed) == set(names)

    async def test_s3_a_token_is_never_given_twice(self) -> None:
        """Each claim of a run has a token of its own: the caller's in ``claim``, ``<call>.<n>`` in ``due``.

        Trouble-shooting: a number that starts again when the claim is deleted or expires revives
        the fence of a worker that lost its claim.
        """
        store, group = await self.open_with()
        token = self.token()
        grant = await self.granted(store, group, token=token)
        assert grant.token == token
        await self.settled(store, group, grant, RETRY, attempt=2, delay=0)
        seen = [token]
        for number in range(4):
            call = f"round-{number}"
            again = (await self.until_due(store, group, call=call, worker="w1", lease=self.timing.lease / 4))[0]
            assert again.token.startswith(f"{call}."), f"the token {again.token!r} is not of the call {call!r}"
            seen.append(again.token)
            if number != 1:  # once its claim expires; twice would make it a suspect
                await self.settled(store, group, again, HANDBACK, body=None)
        assert len(set(seen)) == len(seen), f"tokens came twice: {seen}"

    async def test_s3_a_claim_holds_for_its_lease(self) -> None:
        """Until the lease is over others read BUSY; then one may take over, unless it says not to.

        Trouble-shooting: compare on the store's clock only, in the step that grants.
        """
        store, group = await self.open_with()
        begun = self.time()
        await self.granted(store, group, lease=self.timing.lease)

        async def over() -> bool:
            answer = await self.claim(store, group, worker="w2", takeover=False)
            assert answer.kind is GrantKind.BUSY
            answer = await self.claim(store, group, worker="w2")
            return answer.kind is GrantKind.GRANTED

        await self.until(over, "the takeover of an expired claim", within=self.timing.lease + self.timing.slack)
        elapsed = self.time() - begun
        assert elapsed >= self.timing.lease * 0.95, f"taken over after {elapsed:.2f} s of {self.timing.lease:g} s"
        assert (await self.must_have(store, group)).worker == "w2"

    async def test_d3_the_inbox_hands_out_what_a_dead_worker_held(self) -> None:
        """A run in the inbox whose claim has expired is due: not before its lease is over, and soon after.

        Trouble-shooting: the index that the inbox is read by must hold the end of the lease.
        """
        store, group = await self.open_with()
        await self.adopted(store, group)
        begun = self.time()
        lost = await self.due_one(store, group, lease=self.timing.lease, worker="dead")
        waiting = await self.due_all(store, group)
        assert waiting.next_in is not None, "the end of a lease is something to wait for"
        assert waiting.next_in <= self.timing.lease + 0.01
        grants = await self.until_due(store, group, within=self.timing.lease + self.timing.slack)
        elapsed = self.time() - begun
        assert elapsed >= self.timing.lease * 0.95, f"taken over after {elapsed:.2f} s of {self.timing.lease:g} s"
        assert event_ids(grants) == ["e1"]
        assert grants[0].lost == 1, "a start whose claim expired is a lost one"
        assert grants[0].token != lost.token

    async def test_m5_takeover_waits_while_it_is_told_to(self) -> None:
        """With ``takeover`` off, neither claim nor due takes an expired claim: its owner may renew it.

        Trouble-shooting: after an outage of the store, workers ask that way for half a lease.
        """
        store, group = await self.open_with()
        fresh = await self.granted(store, group, "fresh", lease=self.timing.lease / 2)
        await self.adopted(store, group, "kept")
        kept = await self.due_one(store, group, lease=self.timing.lease / 2)
        await self.sleep(self.timing.lease)
        await self.refused(store, group, GrantKind.BUSY, "fresh", takeover=False)
        assert await self.due(store, group, takeover=False) == []
        holds = [self.hold(group, fresh), self.hold(group, kept)]
        assert await store.renew(holds) == [True, True]

    async def test_d4_a_renewed_claim_is_kept(self) -> None:
        """A claim that is renewed in time is nobody else's, however long it takes.

        Trouble-shooting: renewing moves the end of the lease in every index that holds it.
        """

        async def attempt() -> None:
            store, group = await self.open_with()
            name = f"e{self.token()}"
            await self.adopted(store, group, name)
            before = self.time()
            grant = await self.due_one(store, group, lease=self.timing.lease)
            end = before + 3 * self.timing.lease
            while self.time() < end:
                await self.sleep(self.timing.lease / 4)
                stolen = await self.due(store, group)
                answers = await store.renew([self.hold(group, grant, self.timing.lease)])
                if self.time() - before > self.timing.lease * 0.9:
                    raise Stalled
                before = self.time()
                assert not stolen, "handed to another worker although it was renewed in time"
                assert answers == [True]
            await self.settled(store, group, grant)

        await self.patiently(attempt)

    async def test_d4_only_a_definite_loss_is_a_loss(self) -> None:
        """An expired claim that nobody took is renewed; one that was taken, cancelled or settled is not.

        Trouble-shooting: "expired" is no answer, the question is whether somebody else owns it.
        """
        store, group = await self.open_with()
        grants = {name: await self.granted(store, group, name, lease=0.02) for name in ("free", "taken", "ended")}
        await self.sleep(0.05)
        await self.granted(store, group, "taken", "w2")
        await self.settled(store, group, grants["ended"])
        unknown = self.hold(group, grants["free"])
        unknown.event_id = "never met"
        holds = [self.hold(group, grant) for grant in grants.values()]
        assert await store.renew([*holds, unknown]) == [True, False, False, False]
        await self.refused(store, group, GrantKind.BUSY, "free")

    async def test_d5_a_late_finisher_is_fenced(self) -> None:
        """Who lost a claim can neither settle, nor note a step, nor add progress; nothing of it is kept.

        Trouble-shooting: compare the token in the step that writes, for every write of a run.
        """
        store, group = await self.open_with()
        late = await self.granted(store, group, lease=0.02)
        await self.sleep(0.05)
        owner = await self.granted(store, group, worker="w2")
        assert not await self.settle(store, group, late, result=b'"late"', counts=[("done", 1)])
        assert not await self.settle(store, group, late, RETRY, attempt=2, delay=0)
        assert not await self.settle(store, group, late, HANDBACK)
        assert not await store.note(self.hold(group, late), "step", b"1")
        assert not await store.append(self.hold(group, late), [b"1"], 60)
        assert not await self.adopted(store, group, token=late.token)
        record = await self.must_have(store, group)
        assert (record.state, record.result, record.attempt) == (TaskState.WORKING, None, 1)
        assert await store.notes(group, "e1") == {}
        assert await store.follow(group.topic, group.agent, "e1", 0, 10) == []
        assert await self.counts(store, group) == {}
        await self.settled(store, group, owner, result=b'"right"')
        assert not await self.settle(store, group, late, result=b'"late"')
        assert (await self.must_have(store, group)).result == b'"right"'

    async def test_m1_a_repeated_claim_gives_the_same_answer(self) -> None:
        """The same token again, after a lost reply, is the same grant and no second start.

        Trouble-shooting: look for the token before looking whether the run is claimed.
        """
        store, group = await self.open_with()
        token = self.token()
        first = await self.granted(store, group, token=token)
        assert await self.granted(store, group, token=token) == first
        await self.refused(store, group, GrantKind.BUSY)
        record = await self.must_have(store, group)
        assert (record.starts, record.lost) == (1, 0)

    async def test_m1_a_repeated_due_gives_the_same_answer(self) -> None:
        """The same call again, after a lost reply, hands out the same runs and claims nothing more.

        Trouble-shooting: find the claims whose token begins with the call before claiming.
        """
        store, group = await self.open_with()
        for name in ("e1", "e2", "e3", "e4"):
            await self.adopted(store, group, name)
        first = await self.due(store, group, 2, call="c1")
        again = await self.due(store, group, 2, call="c1")
        assert len(first) == 2
        assert sorted(again, key=lambda grant: grant.token) == sorted(first, key=lambda grant: grant.token)
        rest = await self.due(store, group, 10, call="c10")
        assert sorted(event_ids(first + rest)) == ["e1", "e2", "e3", "e4"]
        assert {(await self.must_have(store, group, grant.event_id)).starts for grant in first} == {1}

    async def test_m2_adopting_looks_at_what_became_of_the_run(self) -> None:
        """A finished, cancelled or gone run is never put into the inbox; its delivery is acknowledged.

        Trouble-shooting: the inbox is a state of the run's record, not a table of its own.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group, "done"))
        assert await self.adopted(store, group, "done")
        gone = group._replace(epoch=group.epoch + 1)
        assert await self.adopted(store, gone, "gone")
        assert await self.due(store, group) == []
        assert await self.due(store, gone) == []
        assert (await self.must_have(store, group, "done")).state is TaskState.COMPLETED

    async def test_m2_the_inbox_alone_hands_out_what_it_holds(self) -> None:
        """A redelivery of a run that the inbox holds reads HELD, waiting or running; adopted twice is once.

        Trouble-shooting: a claim must look at the inbox before it looks at the lease.
        """
        store, group = await self.open_with()
        assert await self.adopted(store, group)
        assert await self.adopted(store, group)
        await self.refused(store, group, GrantKind.HELD)
        grants = await self.due(store, group)
        assert event_ids(grants) == ["e1"]
        assert grants[0].body == self.body(), "what the inbox holds, it holds whole"
        await self.refused(store, group, GrantKind.HELD)
        assert await self.due(store, group) == []

    async def test_d15_a_long_run_is_taken_over_under_its_claim(self) -> None:
        """A claimed run can be adopted by its owner, who goes on; if it dies, the inbox hands it out.

        Trouble-shooting: adopting with a token changes neither claim nor lease.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        assert not await self.adopted(store, group, token=self.token())
        assert await self.adopted(store, group, token=grant.token)
        assert await self.due(store, group) == []
        assert await store.renew([self.hold(group, grant, 0.02)]) == [True]
        again = (await self.until_due(store, group, within=self.timing.slack))[0]
        assert (again.event_id, again.body, again.lost) == ("e1", self.body(), 1)
        assert not await self.settle(store, group, grant)
        await self.settled(store, group, again, body=None)
        assert (await self.must_have(store, group)).body == self.body()

    async def test_m3_after_a_refused_settle_the_run_can_be_asked_for(self) -> None:
        """Who was refused asks again: FINISHED if it is done, BUSY if somebody has it, else granted anew.

        Trouble-shooting: a refused settle is not an acknowledgement; nothing may be lost over it.
        """
        store, group = await self.open_with()
        for name in ("done", "taken", "free"):
            late = await self.granted(store, group, name, lease=0.02)
            await self.sleep(0.05)
            other = await self.granted(store, group, name, "w2")
            if name == "done":
                await self.settled(store, group, other)
            elif name == "free":
                await self.settled(store, group, other, HANDBACK)
            assert not await self.settle(store, group, late)
        kinds = {name: (await self.claim(store, group, name)).kind for name in ("done", "taken", "free")}
        assert kinds == {"done": GrantKind.FINISHED, "taken": GrantKind.BUSY, "free": GrantKind.GRANTED}

    async def test_m14_what_was_busy_is_due_when_its_holder_ends(self) -> None:
        """A redelivery that met a live claim waits in the inbox and is due as soon as that claim ends.

        Trouble-shooting: settling a retry or a hand-back, and the end of a lease, make it due.
        """
        store, group = await self.open_with()
        kept = await self.granted(store, group, "kept", lease=60)
        back = await self.granted(store, group, "back", lease=60)
        done = await self.granted(store, group, "done", lease=60)
        await self.granted(store, group, "dead", lease=self.timing.lease)
        for name in ("kept", "back", "done", "dead"):
            await self.refused(store, group, GrantKind.BUSY, name)
            assert await self.adopted(store, group, name)
        assert await self.due(store, group) == []
        await self.settled(store, group, back, HANDBACK, body=None)
        await self.settled(store, group, done, body=None)
        assert event_ids(await self.due(store, group)) == ["back"]
        grants = await self.until_due(store, group, within=self.timing.lease + self.timing.slack)
        assert event_ids(grants) == ["dead"]
        assert await store.renew([self.hold(group, kept)]) == [True]
