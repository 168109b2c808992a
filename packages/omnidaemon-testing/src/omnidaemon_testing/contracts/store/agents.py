"""Rules S1, C3 and M8: agents, their epochs, and what goes when they are deleted."""

from __future__ import annotations

import asyncio

from omnidaemon.model.run import Deferred, GrantKind, Outgoing, TaskState
from omnidaemon.ports.store import Decision, Query
from omnidaemon_testing.content import corner_bytes
from omnidaemon_testing.contracts.store.base import RETRY, WAIT, StoreBase, event_ids, same_json

__all__ = ["AgentRules"]


class AgentRules(StoreBase):
    """Registering and deleting."""

    async def test_s1_agents_are_kept(self) -> None:
        """An agent is registered once, updated by registering again, and listed for everybody.

        Trouble-shooting: registering again changes the data, never the epoch.
        """
        store = await self.open()
        row, deleted = await store.enroll("b.topic", "one", b"{}")
        assert (row.topic, row.agent, row.deleted, deleted) == ("b.topic", "one", False, False)
        again, deleted = await store.enroll("b.topic", "one", corner_bytes())
        assert (again.epoch, deleted) == (row.epoch, False)
        await store.enroll("a.topic", "two", b"{}")
        await store.enroll("a.topic", "one", b"{}")
        rows = await (await self.open()).agents()
        assert [(row.topic, row.agent) for row in rows] == [("a.topic", "one"), ("a.topic", "two"), ("b.topic", "one")]
        assert same_json(rows[2].data, corner_bytes())
        assert abs(rows[2].registered_at - await store.now()) < 60

    async def test_s1_registering_at_the_same_time_makes_one_agent(self) -> None:
        """Six workers that start at once register one agent, in one epoch.

        Trouble-shooting: insert or update in one step.
        """
        stores = [await self.open() for _ in range(6)]
        rows = await asyncio.gather(*(store.enroll(self.topic, "agent", b"{}") for store in stores))
        assert len({row.epoch for row, _ in rows}) == 1
        assert len(await stores[0].agents()) == 1

    async def test_c3_deleting_an_agent_takes_its_work_with_it(self) -> None:
        """With its group go its inbox, its unsent follow-ups and its marks, and the reply counts them.

        Trouble-shooting: one step; another agent's rows, and those of no agent, stay.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        for group in groups:
            for name in ("in1", "in2"):
                await self.adopted(store, group, name)
            follow_ups = [
                Deferred(Outgoing("next", f"{group.agent}-{number}", b"{}"), delay=0.001) for number in (1, 2, 3)
            ]
            await self.settled(store, group, await self.granted(store, group, "done"), outbox=follow_ups)
            await self.dead(store, group, "dead1")
        await store.defer([Deferred(Outgoing("next", "of nobody", b"{}"), delay=0.001)])
        gone = await store.retire(first.topic, first.agent, group=True, dead_letters=True)
        assert (gone.existed, gone.inbox, gone.outbox, gone.dead_letters) == (True, 2, 3, 1)
        assert await self.due(store, first) == []
        assert len(await self.due(store, second)) == 2
        assert (await store.count(second))["dead_letters"] == 1
        await self.sleep(0.02)
        rows, _ = await store.outbox("relay", 10, 60)
        assert {row.id for row in rows} == {"second-1", "second-2", "second-3", "of nobody"}
        again = await store.retire(first.topic, first.agent, group=True, dead_letters=True)
        assert (again.existed, again.inbox, again.outbox, again.dead_letters) == (False, 0, 0, 0)
        assert not (await store.retire(first.topic, "never", group=True, dead_letters=True)).existed

    async def test_c3_a_tombstone_keeps_stale_workers_out(self) -> None:
        """After a deletion nobody claims, settles, adopts or is handed anything of the ended epoch.

        Trouble-shooting: every step looks at the agent's row; the tombstone stays.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group, "running")
        await self.adopted(store, group, "waiting")
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        assert [(row.agent, row.deleted) for row in await store.agents()] == [(group.agent, True)]
        await self.refused(store, group, GrantKind.GONE, "fresh")
        await self.refused(store, group, GrantKind.GONE, "running")
        assert await store.renew([self.hold(group, grant)]) == [False]
        assert not await self.settle(store, group, grant, RETRY, attempt=2, delay=0)
        assert await self.adopted(store, group, "running")
        assert await self.due(store, group) == []
        assert event_ids((await store.records(Query(states=[TaskState.WORKING, TaskState.SUBMITTED]))).items) == []

    async def test_c3_deleting_without_the_group_keeps_its_work(self) -> None:
        """Without its group a deleted agent keeps epoch, inbox and dead letters, and starts nothing.

        Trouble-shooting: the tombstone alone says GONE; what runs may still settle.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group, "running")
        await self.adopted(store, group, "waiting")
        await self.dead(store, group, "dead1")
        gone = await store.retire(group.topic, group.agent, group=False, dead_letters=False)
        assert (gone.existed, gone.inbox, gone.dead_letters) == (True, 0, 0)
        await self.refused(store, group, GrantKind.GONE, "fresh")
        assert await self.due(store, group) == []
        await self.settled(store, group, grant)
        row, deleted = await store.enroll(group.topic, group.agent, b"{}")
        assert (row.epoch, row.deleted, deleted) == (group.epoch, False, True)
        assert event_ids(await self.due(store, group)) == ["waiting"]
        assert (await store.count(group))["dead_letters"] == 1

    async def test_c3_results_outlive_their_epoch(self) -> None:
        """What had ended when the group was deleted can be read until its time is over, under its old epoch.

        Trouble-shooting: the epoch's live runs go, with marks, inbox and follow-ups; its final records stay.
        """
        store, group = await self.open_with()
        for name, ttl in (("done", 600.0), ("brief", 0.02)):
            await self.settled(store, group, await self.granted(store, group, name), result=b'"old"', ttl=ttl)
        await self.dead(store, group, "dead1")
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        await self.sleep(0.05)
        assert sorted(event_ids((await store.records(Query(agent=group.agent))).items)) == ["dead1", "done"]
        await store.enroll(group.topic, group.agent, b"{}")
        record = await self.must_have(store, group, "done")
        assert (record.group, record.state, record.result) == (group, TaskState.COMPLETED, b'"old"')
        letter = await self.must_have(store, group, "dead1")
        assert (letter.group, letter.dead) == (group, "max_attempts")
        assert await self.record(store, group, "brief") is None
        assert await store.remove(Query(agent=group.agent, dead=True)) == 1
        assert await self.record(store, group, "dead1") is None

    async def test_m8_results_of_an_ended_epoch_are_in_nobody_s_way(self) -> None:
        """Claim, adoption and cancel meet nothing of a result that an ended epoch left.

        Trouble-shooting: compare the epoch of the record, not only its event's id; what begins anew begins
        without data, steps and progress, and takes the record's place.
        """
        store, group = await self.open_with()
        for name in ("claimed", "adopted", "canceled", "dead1"):
            grant = await self.granted(store, group, name)
            assert await store.note(self.hold(group, grant), "step", b"1")
            assert await store.append(self.hold(group, grant), [b"half", b"whole"], 60)
            dead = "max_attempts" if name == "dead1" else None
            await self.settled(store, group, grant, result=b'"old"', data=b"old", dead=dead)
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        row, _ = await store.enroll(group.topic, group.agent, b"{}")
        new = row.group
        assert await self.adopted(store, new, "adopted")
        assert event_ids(await self.due(store, new)) == ["adopted"]
        for name in ("claimed", "dead1"):
            grant = await self.granted(store, new, name)
            assert (grant.attempt, grant.generation, grant.data) == (1, 0, b"")
            assert await store.notes(new, name) == {}
            assert await store.follow(new.topic, new.agent, name, 0, 10) == []
            record = await self.must_have(store, new, name)
            assert (record.group, record.state, record.result, record.dead) == (new, TaskState.WORKING, None, None)
        assert await store.decide(Decision("cancel", new, "canceled", "op1")) == "done"
        await self.refused(store, new, GrantKind.CANCELED, "canceled")
        assert (await self.must_have(store, new, "canceled")).group == new
        assert (await store.count(new))["dead_letters"] == 0

    async def test_m8_registering_after_a_deletion_opens_the_next_epoch(self) -> None:
        """A new epoch knows nothing of the old one: its events run again, stale tokens are refused.

        Trouble-shooting: marks, lanes and claims belong to the group with its epoch.
        """
        store, group = await self.open_with()
        old = await self.granted(store, group, "e1", lane="k:a")
        await self.settled(store, group, await self.granted(store, group, "done"))
        await self.settled(store, group, await self.granted(store, group, "asked"), WAIT, question="q")
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        row, deleted = await store.enroll(group.topic, group.agent, b"{}")
        assert deleted, "the caller must learn that the agent was deleted"
        assert row.epoch > group.epoch
        assert not row.deleted
        fresh = await self.granted(store, row.group, "e1", lane="k:a")
        assert (fresh.attempt, fresh.lost) == (1, 0)
        await self.granted(store, row.group, "done")
        assert not await self.settle(store, group, old, result=b'"stale"')
        await self.refused(store, group, GrantKind.GONE, "e2")
        await self.settled(store, row.group, fresh, result=b'"new"')
        assert (await self.must_have(store, row.group)).result == b'"new"'
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        last, _ = await store.enroll(group.topic, group.agent, b"{}")
        assert last.epoch > row.epoch, "epochs never come back"
