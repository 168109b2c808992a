"""Rules L1 to L4, D16 and D17: starting, stopping, outages."""

from __future__ import annotations

import asyncio
from typing import Any

from omnidaemon import AgentConfig, BackendUnavailable, Context
from omnidaemon_testing.contracts.leftovers import Leftovers
from omnidaemon_testing.contracts.worker.base import WorkerBase, echo

__all__ = ["LifeRules"]


class LifeRules(WorkerBase):
    """A worker's life, and what it survives."""

    async def test_l1_draining_finishes_what_runs(self) -> None:
        """Stopping takes nothing new, lets running work finish and settles it; the rest is left to others.

        Trouble-shooting: stop the intake first, wait for calls in flight, then for the runs.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            await asyncio.sleep(self.timing.quiet)
            return await echo(message, ctx)

        sdk = await self.worker(slow, max_concurrency=2)
        handles = await self.publish(sdk, 8)
        await self.until_runs(2)
        await sdk.stop(grace=self.timing.deadline)
        begun = len(self.runs)
        assert all(run.end is not None for run in self.runs), "stop returned before its runs had ended"
        await self.sleep(self.timing.quiet * 2)
        assert len(self.runs) == begun, "a stopped worker started something"
        other = await self.worker()
        await self.all_done(other, handles)
        assert [self.starts(handle.id) for handle in handles] == [1] * 8

    async def test_l1_what_does_not_finish_is_handed_back_at_once(self) -> None:
        """After the grace period the rest is handed back: others run it long before its lease is over.

        Trouble-shooting: a settle of kind handback, and the delivery given back.
        """
        gate = asyncio.Event()

        async def stuck(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(stuck, lease=60)
        handle = await sdk.publish(self.topic, "stuck")
        await self.until_runs(1)
        await sdk.stop(grace=self.timing.quiet)
        other = await self.worker(lease=60)
        assert await other.task(f"{handle.id}:agent").result(timeout=self.timing.deadline) == "stuck"
        task = await other.get_task(handle.id)
        assert task is not None
        assert (task["attempt"], [run.attempt for run in self.runs]) == (1, [1, 1])

    async def test_l2_an_outage_loses_nothing(self) -> None:
        """Bus and store go away and come back in the middle of the work: everything is run, none twice.

        Trouble-shooting: reconnect for ever; every call that is repeated is repeatable.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            await asyncio.sleep(self.timing.quiet / 10)
            return await echo(message, ctx)

        sdk = await self.worker(slow, max_concurrency=3, lease=5)
        observer = self.sdk(gated=False)
        handles = await self.publish(sdk, 30)
        await self.until_runs(5)
        for gate in (self.store_gate, self.bus_gate):
            gate.down = True
            await self.sleep(self.timing.lease)
            gate.down = False
            await self.sleep(self.timing.quiet)
        await self.all_done(observer, handles, within=10)
        counts = (await observer.metrics(self.topic))[self.topic]["agent"]
        assert counts["tasks_processed"] == 30

    async def test_l2_what_cannot_be_reached_at_the_start_raises(self) -> None:
        """Starting without a server raises after ``connect_timeout``, and leaves nothing behind.

        Trouble-shooting: close what was opened when the rest fails.
        """
        sdk = self.sdk(connect_timeout=self.timing.quiet)
        self.serve(sdk)
        self.store_gate.broken.add("open")
        begun = self.time()
        async with self.refusal(BackendUnavailable):
            await sdk.start()
        assert self.time() - begun < self.timing.deadline
        assert not sdk.running
        self.store_gate.broken.clear()
        await sdk.start()
        handle = await sdk.publish(self.topic, "now")
        assert await handle.result(timeout=self.timing.deadline) == "now"

    async def test_l2_the_work_goes_on_after_a_restart(self) -> None:
        """A restart of the server in the middle of the work loses nothing.

        Trouble-shooting: see the same rule of bus and store.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            await asyncio.sleep(self.timing.quiet / 10)
            return await echo(message, ctx)

        sdk = await self.worker(slow, max_concurrency=3, lease=5)
        handles = await self.publish(sdk, 60)
        await self.until_runs(5)
        chosen = sdk.choose()
        for adapter in (chosen.bus, chosen.store):
            if adapter.capabilities.restartable:
                await self.restart(adapter)
                break
        else:
            self.absent(chosen.bus, "restartable")
        await self.all_done(sdk, handles, within=30)

    async def test_d16_without_the_store_nothing_starts(self) -> None:
        """While the store is away nothing is started; afterwards everything is, once.

        Trouble-shooting: no start without a claim; give back what was prefetched.
        """
        sdk = await self.worker()
        await sdk.connections.get()
        self.store_gate.down = True
        await self.sleep(self.timing.quiet)
        handles = await self.publish(sdk, 5)
        await self.sleep(self.timing.lease)
        assert self.runs == [], "something was started without a claim"
        self.store_gate.down = False
        await self.all_done(sdk, handles, within=self.takeover())
        assert [self.starts(handle.id) for handle in handles] == [1] * 5

    async def test_d17_without_the_bus_finished_work_stays_finished(self) -> None:
        """What ends while the bus is away is settled, and is not run again when the bus is back.

        Trouble-shooting: the redelivery meets the done mark.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(wait)
        handle = await sdk.publish(self.topic, "kept")
        await self.until_runs(1)
        self.bus_gate.down = True
        await self.sleep(self.timing.lease * 1.5)
        gate.set()
        await self.until_state(self.sdk(gated=False), handle, "completed")
        self.bus_gate.down = False
        marker = await sdk.publish(self.topic, "marker")
        await marker.result(timeout=self.timing.deadline)
        await self.sleep(self.timing.lease)
        assert self.starts(handle.id) == 1

    async def test_l3_nothing_outlives_shutdown(self) -> None:
        """After ``shutdown`` no task, thread or open file of the SDK is left; twice is fine.

        Trouble-shooting: join the I/O thread, close both connections of this loop.
        """
        first = await self.worker()
        await (await first.publish(self.topic, "warm")).result(timeout=self.timing.deadline)
        await first.shutdown(grace=1)
        leftovers = Leftovers(self.timing)
        sdk = await self.worker()
        await (await sdk.publish(self.topic, "x")).result(timeout=self.timing.deadline)
        await sdk.shutdown(grace=1)
        await sdk.shutdown(grace=1)
        await leftovers.assert_none()

    async def test_l4_start_stop_start(self) -> None:
        """One SDK starts and stops again and again, runs what came meanwhile, and publishes throughout.

        Trouble-shooting: nothing of a worker survives on the SDK but its agents.
        """
        sdk = self.sdk()
        self.serve(sdk)
        for number in range(3):
            handle = await sdk.publish(self.topic, number)
            await sdk.start()
            await sdk.start()
            assert await handle.result(timeout=self.timing.deadline) == number
            await sdk.stop()
            await sdk.stop()
            assert not sdk.running

    async def test_l4_registering_again_replaces(self) -> None:
        """An agent registered again under its name while the worker runs gets the new callable.

        Trouble-shooting: the subscription keeps its group and gets the new runner.
        """
        sdk = await self.worker()
        assert await (await sdk.publish(self.topic, "x")).result(timeout=self.timing.deadline) == "x"

        async def newer(message: dict[str, Any]) -> str:
            return f"new {message['content']}"

        config = AgentConfig(topic=self.topic, name="agent", callback=newer)
        await sdk.register_agent(config)
        await sdk.register_agent(config)
        assert await (await sdk.publish(self.topic, "y")).result(timeout=self.timing.deadline) == "new y"
        assert len((await sdk.list_agents())[self.topic]) == 1
