"""Rules P4, S2, S5 and M6: what is forgotten, and what is not."""

from __future__ import annotations

from omnidaemon.model.run import GrantKind, Group, TaskState
from omnidaemon.ports.store import Query, Store
from omnidaemon_testing.contracts.store.base import RETRY, WAIT, StoreBase, event_ids

__all__ = ["MarkRules"]


class MarkRules(StoreBase):
    """Done marks and expiry."""

    async def done(
        self, store: Store, group: Group, event_id: str = "e1", ttl: float = 60, mark_ttl: float = 60
    ) -> None:
        """Finish a run."""
        grant = await self.granted(store, group, event_id)
        await self.settled(store, group, grant, result=b"1", ttl=ttl, mark_ttl=mark_ttl)

    async def test_p4_a_finished_event_does_not_run_again(self) -> None:
        """Every redelivery of a finished event reads FINISHED, for that agent only.

        Trouble-shooting: the done mark is written by the settle, per group.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        await self.done(store, first)
        for _ in range(3):
            await self.refused(store, first, GrantKind.FINISHED)
        await self.granted(store, second)
        await self.dead(store, first, "dead")
        await self.refused(store, first, GrantKind.FINISHED, "dead")

    async def test_p4_a_done_mark_outlives_its_record(self) -> None:
        """A run stays FINISHED though its record has expired or was removed.

        Trouble-shooting: keep marks apart from records, with a window of their own.
        """
        store, group = await self.open_with()
        await self.done(store, group, "expired", ttl=0.02)
        await self.done(store, group, "removed")
        assert await store.remove(Query(event_ids=["removed"])) == 1
        await self.sleep(0.05)
        for name in ("expired", "removed"):
            assert await self.record(store, group, name) is None
            await self.refused(store, group, GrantKind.FINISHED, name)
            assert await self.adopted(store, group, name)
        assert await self.due(store, group) == []

    async def test_m6_marks_are_forgotten_by_command_only(self) -> None:
        """A mark goes when its window has passed AND ``forget`` says that nothing can bring the event.

        Trouble-shooting: no expiry of its own; ``before`` is compared with the time of the settle.
        """
        store, group = await self.open_with()
        await self.done(store, group, "old", ttl=0.02, mark_ttl=0.05)
        await self.done(store, group, "window", ttl=0.02, mark_ttl=60)
        between = await store.now() + 0.01
        await self.sleep(0.1)
        await self.done(store, group, "young", ttl=0.02, mark_ttl=0.05)
        await self.sleep(0.1)
        names = ("old", "window", "young")
        for name in names:
            await self.refused(store, group, GrantKind.FINISHED, name)
        await store.forget(group, 0)
        for name in names:
            await self.refused(store, group, GrantKind.FINISHED, name)
        assert await store.forget(group, between) == 1
        for name in ("window", "young"):
            await self.refused(store, group, GrantKind.FINISHED, name)
        await self.granted(store, group, "old")

    async def test_s2_an_expired_record_is_never_returned(self) -> None:
        """After its ``ttl`` a finished run is in no answer, whether or not it is still on the disk.

        Trouble-shooting: compare with the store's clock in every query; cleaning up comes later.
        """
        store, group = await self.open_with()
        await self.done(store, group, "short", ttl=self.timing.lease)
        await self.done(store, group, "long")
        begun = self.time()
        seen = event_ids((await store.records(Query())).items)
        assert self.time() - begun > self.timing.lease / 2 or sorted(seen) == ["long", "short"]

        async def gone() -> bool:
            return await self.record(store, group, "short") is None

        await self.until(gone, "the record expired", within=self.timing.lease + self.timing.slack)
        for query in (Query(), Query(topic=group.topic, agent=group.agent), Query(states=[TaskState.COMPLETED])):
            assert event_ids((await store.records(query)).items) == ["long"]
        assert await store.remove(Query(event_ids=["short"])) == 0

    async def test_s2_what_is_not_final_never_expires(self) -> None:
        """Runs that work, wait for their retry, their lane or an answer stay, however long.

        Trouble-shooting: set an expiry in the final settle only, and take it away when a run is reopened.
        """
        store, group = await self.open_with()
        await self.granted(store, group, "working")
        await self.settled(
            store, group, await self.granted(store, group, "retry"), RETRY, attempt=2, delay=60, ttl=0.01
        )
        await self.settled(store, group, await self.granted(store, group, "wait"), WAIT, question="q", ttl=0.01)
        await self.adopted(store, group, "inbox", delay=60)
        await self.sleep(0.1)
        await store.forget(group, await store.now())
        names = event_ids((await store.records(Query(topic=group.topic, agent=group.agent))).items)
        assert sorted(names) == ["inbox", "retry", "wait", "working"]

    async def test_s5_clearing_results_stops_nobody(self) -> None:
        """Removing records takes finished ones only, and forgets no mark, count or live run.

        Trouble-shooting: a live run's record is its claim; never delete by pattern.
        """
        store, group = await self.open_with()
        await self.done(store, group, "done")
        live = await self.granted(store, group, "live")
        counted = await self.granted(store, group, "counted")
        await self.settled(store, group, counted, counts=[("done", 1)])
        assert await store.remove(Query(topic=group.topic, agent=group.agent)) == 2
        assert event_ids((await store.records(Query())).items) == ["live"]
        assert await store.renew([self.hold(group, live)]) == [True]
        await self.settled(store, group, live)
        await self.refused(store, group, GrantKind.FINISHED, "done")
        assert await self.counts(store, group) == {"done": 1}

    async def test_s5_clearing_metrics_stops_nobody(self) -> None:
        """Forgetting counts leaves records, claims and marks alone; counting begins at zero.

        Trouble-shooting: counts lie in tables or keys of their own.
        """
        store, group = await self.open_with()
        live = await self.granted(store, group, "live")
        await self.settled(store, group, await self.granted(store, group, "e1"), counts=[("done", 1), ("seconds", 2)])
        assert await store.clear_metrics() > 0
        assert await self.counts(store, group) == {}
        assert await self.record(store, group) is not None
        await self.settled(store, group, live, counts=[("done", 1)])
        assert await self.counts(store, group) == {"done": 1}
