"""Rules D12, R5 and M9: events of one lane run one at a time, in order."""

from __future__ import annotations

from omnidaemon.model.run import GrantKind, TaskState
from omnidaemon.ports.store import Decision
from omnidaemon_testing.contracts.store.base import HANDBACK, RETRY, WAIT, StoreBase, event_ids

__all__ = ["LaneRules"]

_LANE = "k:customer-7"


class LaneRules(StoreBase):
    """What waits for what."""

    async def test_d12_a_lane_runs_one_at_a_time(self) -> None:
        """While an earlier run of its lane is not finished a run reads BEHIND; other lanes go on.

        Trouble-shooting: give a run its place in the lane in the step that first meets it.
        """
        store, group = await self.open_with()
        first = await self.granted(store, group, "a1", lane=_LANE)
        await self.refused(store, group, GrantKind.BEHIND, "a2", lane=_LANE)
        await self.refused(store, group, GrantKind.BEHIND, "a3", lane=_LANE)
        await self.granted(store, group, "b1", lane="k:other")
        await self.granted(store, group, "plain")
        for name in ("a3", "a2"):
            assert await self.adopted(store, group, name, lane=_LANE)
        assert await self.due(store, group) == []
        await self.settled(store, group, first)
        second = await self.until_due(store, group)
        assert event_ids(second) == ["a2"], "the order is that in which the runs were first met"
        await self.settled(store, group, second[0], body=None)
        assert event_ids(await self.until_due(store, group)) == ["a3"]

    async def test_d12_a_retry_holds_its_lane(self) -> None:
        """While an earlier run waits for its retry, or was given back, the later ones wait too.

        Trouble-shooting: only a final outcome, or waiting for a human, leaves the lane.
        """
        store, group = await self.open_with()
        first = await self.granted(store, group, "a1", lane=_LANE)
        await self.adopted(store, group, "a2", lane=_LANE)
        await self.settled(store, group, first, RETRY, attempt=2, delay=self.timing.lease / 2)
        await self.refused(store, group, GrantKind.HELD, "a2", lane=_LANE)
        await self.refused(store, group, GrantKind.BEHIND, "a3", lane=_LANE)
        again = (await self.until_due(store, group))[0]
        assert again.event_id == "a1"
        await self.settled(store, group, again, HANDBACK, body=None)
        again = (await self.until_due(store, group))[0]
        assert again.event_id == "a1"
        await self.settled(store, group, again, body=None)
        assert event_ids(await self.until_due(store, group)) == ["a2"]

    async def test_d12_a_dead_letter_lets_the_next_go(self) -> None:
        """Giving up on a run, or cancelling it, frees its lane.

        Trouble-shooting: every final state leaves the lane, whoever brings it about.
        """
        store, group = await self.open_with()
        first = await self.granted(store, group, "a1", lane=_LANE)
        for name in ("a2", "a3", "a4"):
            await self.adopted(store, group, name, lane=_LANE)
        await self.settled(store, group, first, state=TaskState.FAILED, dead="max_attempts")
        assert event_ids(await self.due(store, group)) == ["a2"]
        assert await store.decide(Decision("cancel", group, "a2", "op1")) == "done"
        assert await store.decide(Decision("cancel", group, "a4", "op2")) == "done"
        assert event_ids(await self.due(store, group)) == ["a3"]

    async def test_d12_a_lost_claim_keeps_its_place(self) -> None:
        """When the worker of the first run dies, that run comes next, not the one behind it.

        Trouble-shooting: an expired claim is no outcome.
        """
        store, group = await self.open_with()
        await self.granted(store, group, "a1", lane=_LANE, lease=0.02)
        await self.adopted(store, group, "a2", lane=_LANE)
        await self.sleep(0.05)
        await self.refused(store, group, GrantKind.BEHIND, "a3", lane=_LANE)
        assert await self.due(store, group) == []
        again = await self.granted(store, group, "a1", "w2", lane=_LANE)
        assert again.lost == 1

    async def test_m9_an_unmet_predecessor_s_place_is_reserved(self) -> None:
        """A run whose named predecessor nobody has met yet is BEHIND it, and comes after it.

        Trouble-shooting: ``after`` puts the predecessor in the lane before the run that names it.
        """
        store, group = await self.open_with()
        await self.refused(store, group, GrantKind.BEHIND, "a2", lane=_LANE, after="a1")
        await self.adopted(store, group, "a2", lane=_LANE, after="a1")
        await self.refused(store, group, GrantKind.BEHIND, "a3", lane=_LANE, after="a2")
        await self.adopted(store, group, "a3", lane=_LANE, after="a2")
        assert await self.due(store, group) == []
        first = await self.granted(store, group, "a1", lane=_LANE)
        await self.settled(store, group, first)
        second = await self.until_due(store, group)
        assert event_ids(second) == ["a2"]
        await self.settled(store, group, second[0], body=None)
        assert event_ids(await self.until_due(store, group)) == ["a3"]

    async def test_m9_a_finished_predecessor_holds_nobody(self) -> None:
        """A predecessor that is finished is no reason to wait, even when its record is gone.

        Trouble-shooting: look at record and done mark before reserving a place.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group, "a1", lane=_LANE), ttl=0.02)
        await self.sleep(0.05)
        await self.granted(store, group, "a2", lane=_LANE, after="a1")

    async def test_m9_adopting_reserves_places_too(self) -> None:
        """A run that goes to the inbox unclaimed has its place, and blocks those behind it.

        Trouble-shooting: a lane looks at every run that is not final, claimed or not.
        """
        store, group = await self.open_with()
        await self.adopted(store, group, "a1", lane=_LANE, delay=60)
        await self.refused(store, group, GrantKind.BEHIND, "a2", lane=_LANE)
        await self.adopted(store, group, "b2", lane="k:b", after="b1")
        assert await self.due(store, group) == []
        await self.settled(store, group, await self.granted(store, group, "b1", lane="k:b"))
        assert event_ids(await self.until_due(store, group)) == ["b2"]

    async def test_m9_replays_queue_behind(self) -> None:
        """A replayed dead letter goes to the end of its lane.

        Trouble-shooting: a new generation gets a new place.
        """
        store, group = await self.open_with()
        first = await self.granted(store, group, "a1", lane=_LANE)
        await self.settled(store, group, first, state=TaskState.FAILED, dead="max_attempts")
        second = await self.granted(store, group, "a2", lane=_LANE)
        assert await store.decide(Decision("replay", group, "a1", "op1")) == "done"
        assert await self.due(store, group) == []
        await self.settled(store, group, second)
        assert event_ids(await self.until_due(store, group)) == ["a1"]

    async def test_r6_waiting_for_a_human_holds_no_lane(self) -> None:
        """A run that waits for an answer leaves its lane; answered, it queues behind.

        Trouble-shooting: the wait is an outcome for the lane, and the answer a new entry.
        """
        store, group = await self.open_with()
        first = await self.granted(store, group, "a1", lane=_LANE)
        await self.adopted(store, group, "a2", lane=_LANE)
        await self.settled(store, group, first, WAIT, question="ok?")
        second = await self.until_due(store, group)
        assert event_ids(second) == ["a2"]
        assert await store.decide(Decision("answer", group, "a1", "op1", question="ok?", value=b"true")) == "done"
        assert await self.due(store, group) == []
        await self.settled(store, group, second[0], body=None)
        assert event_ids(await self.until_due(store, group)) == ["a1"]

    async def test_r5_lanes_belong_to_their_group(self) -> None:
        """Two agents' runs of one session do not wait for each other.

        Trouble-shooting: the key of a lane begins with the whole group.
        """
        store, groups = await self.open_with("first", "second")
        for group in groups:
            await self.granted(store, group, "s1", lane="s:chat")
            await self.refused(store, group, GrantKind.BEHIND, "s2", lane="s:chat")
        await self.granted(store, groups[0], "k1", lane="k:chat")
