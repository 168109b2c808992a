"""Rules S6, S7, S11, S13, L2, L3 and T3: several processes, restarts, namespaces, opening and closing."""

from __future__ import annotations

import asyncio

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import GrantKind
from omnidaemon.ports.event_bus import PORT_VERSION
from omnidaemon.ports.store import Put, Query
from omnidaemon_testing.contracts.leftovers import Leftovers
from omnidaemon_testing.contracts.store.base import RETRY, StoreBase, event_ids

__all__ = ["LifeRules"]


class LifeRules(StoreBase):
    """What opening, closing and sharing promise."""

    async def test_s6_confirmed_writes_outlive_their_writer(self) -> None:
        """What a method has confirmed is there for whoever opens the store next.

        Trouble-shooting: write through before answering.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group, "done"), result=b"1")
        await self.settled(store, group, await self.granted(store, group, "retry"), RETRY, attempt=2, delay=0)
        held = await self.granted(store, group, "held")
        await store.put("config", [Put("a", b"1")])
        await store.close()
        other = await self.open()
        assert (await self.must_have(other, group, "done")).result == b"1"
        assert event_ids(await self.due(other, group)) == ["retry"]
        assert await other.renew([self.hold(group, held)]) == [True]
        assert (await other.get("config", ["a"]))[0] is not None
        assert len(await other.agents()) == 1

    async def test_s6_confirmed_writes_survive_a_restart(self) -> None:
        """After a restart of the server records, claims, marks, counts and values are what they were.

        Trouble-shooting: check the server's own persistence against the ``durability`` declared.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group, "done"), result=b"1", counts=[("done", 1)])
        await self.settled(store, group, await self.granted(store, group, "retry"), RETRY, attempt=2, delay=0)
        held = await self.granted(store, group, "held", lease=600)
        await store.put("config", [Put("a", b"1")])
        await self.restart(store)

        async def answers() -> bool:
            try:
                await store.ping()
            except BackendError:
                return False
            return True

        await self.until(answers, "the store answers after the restart", within=self.timing.deadline * 3)
        assert (await self.must_have(store, group, "done")).result == b"1"
        await self.refused(store, group, GrantKind.FINISHED, "done")
        assert event_ids(await self.due(store, group)) == ["retry"]
        assert await store.renew([self.hold(group, held)]) == [True]
        assert await self.counts(store, group) == {"done": 1}
        assert (await store.get("config", ["a"]))[0] is not None

    async def test_l2_the_store_goes_on_after_a_restart(self) -> None:
        """While the server is away only our own errors come; then the same object works again.

        Trouble-shooting: connect again inside the adapter, and map every error of the driver.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        await self.restart(store)

        async def settles() -> bool:
            try:
                return await self.settle(store, group, grant)
            except Exception as error:  # noqa: BLE001 - any error must be one of ours
                assert type(error).__module__.startswith("omnidaemon"), f"a driver's error got out: {error!r}"
                return False

        await self.until(settles, "settling after the restart", within=self.timing.deadline * 3)

    async def test_s7_everybody_sees_what_anybody_wrote(self) -> None:
        """Two open stores see each other's writes at once, in every kind of data.

        Trouble-shooting: no cache that another process cannot invalidate.
        """
        store, group = await self.open_with()
        other = await self.open()
        assert len(await other.agents()) == 1
        for number in range(10):
            writer, reader = (store, other) if number % 2 else (other, store)
            name = f"e{number}"
            grant = await self.granted(writer, group, name)
            await self.refused(reader, group, GrantKind.BUSY, name)
            await self.settled(reader, group, grant, counts=[("done", 1)])
            assert (await self.must_have(writer, group, name)).state.final
            assert await self.counts(writer, group) == {"done": number + 1}
            await writer.put("config", [Put("number", b"%d" % number)])
            (value,) = await reader.get("config", ["number"])
            assert value is not None
            assert value.value == b"%d" % number

    async def test_s13_six_may_start_at_once(self) -> None:
        """Opening an empty store from six places at the same time makes one schema and loses nothing.

        Trouble-shooting: migrate under a lock, and look at the version again inside it.
        """
        stores = [self.make() for _ in range(6)]

        async def start(number: int) -> None:
            await stores[number].open()
            self._closing.push_async_callback(stores[number].close)
            row, _ = await stores[number].enroll(self.topic, f"agent{number}", b"{}")
            await self.granted(stores[number], row.group, f"e{number}", f"w{number}")

        await asyncio.gather(*(start(number) for number in range(6)))
        for store in stores:
            assert len(await store.agents()) == 6
            assert len((await store.records(Query())).items) == 6

    async def test_s3_the_store_has_one_clock(self) -> None:
        """All that is open on one store reads one clock, which runs forward like any other.

        Trouble-shooting: ask the server for its time; hosts differ.
        """
        store, group = await self.open_with()
        other = await self.open()
        before = await store.now()
        await self.granted(other, group)
        record = await self.must_have(store, group)
        after = await other.now()
        assert before - 0.01 <= record.updated <= after + 0.01
        begun = self.time()
        first = await store.now()
        await self.sleep(self.timing.quiet)
        assert 0 < await other.now() - first <= self.time() - begun + 0.05

    async def test_t3_namespaces_never_meet(self) -> None:
        """Two deployments on one server see nothing of each other, even if one name begins the other.

        Trouble-shooting: end the prefix with a separator that no namespace can hold; lists and clean-up too.
        """
        short, long = self.prefix[:20], f"{self.prefix[:20]}2"
        one, two = await self.open(namespace=short), await self.open(namespace=long)
        group = (await one.enroll(self.topic, "agent", b"{}"))[0].group
        await two.enroll(self.topic, "agent", b"{}")
        await self.settled(one, group, await self.granted(one, group, "done"), counts=[("done", 1)])
        await self.adopted(one, group, "waiting")
        await one.put("flags", [Put("pause", b"1")])
        assert (await two.records(Query())).items == []
        assert await self.due(two, group) == []
        assert await self.counts(two, group) == {}
        assert await two.get("flags", ["pause"]) == [None]
        assert (await two.scan("flags")).items == []
        await self.granted(two, group, "done")
        await two.retire(self.topic, "agent", group=True, dead_letters=True)
        await two.remove(Query())
        await two.clear_metrics()
        assert [row.deleted for row in await one.agents()] == [False]
        assert (await self.must_have(one, group, "done")).state.final
        assert await self.counts(one, group) == {"done": 1}
        assert event_ids(await self.due(one, group)) == ["waiting"]

    async def test_l3_nothing_outlives_close(self) -> None:
        """After ``close`` no task, thread or open file of the store is left; closing twice is fine.

        Trouble-shooting: close the pool and what runs in the background; await it.
        """
        store, group = await self.open_with()
        await store.close()
        leftovers = Leftovers(self.timing)
        store = self.make()
        await store.open()
        await self.settled(store, group, await self.granted(store, group))
        await store.close()
        await store.close()
        await leftovers.assert_none()

    async def test_l3_a_closed_store_refuses(self) -> None:
        """Used before ``open`` or after ``close`` it raises ``Closed``; a constructor does no I/O.

        Trouble-shooting: check in one place that all methods pass.
        """
        store = self.make()
        leftovers = Leftovers(self.timing)
        self.make()
        await leftovers.assert_none()
        for _ in range(2):
            async with self.refusal(Closed):
                await store.agents()
            async with self.refusal(Closed):
                await store.records(Query())
            async with self.refusal(Closed):
                await store.settle([])
            await store.open()
            await store.ping()
            await store.close()

    async def test_l4_twins_share_data_and_serve_another_loop(self) -> None:
        """A twin works in another thread's event loop, on the same data.

        Trouble-shooting: no locks, futures or connections of one loop in what twins share.
        """
        store, group = await self.open_with()
        twin = store.twin()

        async def elsewhere() -> None:
            await twin.open()
            try:
                await self.granted(twin, group)
            finally:
                await twin.close()

        if self.loop_factory is not None:
            await elsewhere()  # a loop that owns time cannot share it with a thread
        else:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        await self.refused(store, group, GrantKind.BUSY)

    async def test_s11_the_adapter_describes_itself(self) -> None:
        """Version, capabilities, scope and location are there before ``open`` and hold no secret.

        Trouble-shooting: ``scope`` of this very server may be narrower than the capability, never wider.
        """
        store = self.make()
        assert store.port_version == PORT_VERSION
        assert store.capabilities.name
        widths = ("process", "machine", "network")
        assert widths.index(store.scope) <= widths.index(store.capabilities.scope)
        assert "@" not in store.location, "the location shows credentials"
        assert "@" not in repr(store), "the repr shows credentials"
