"""Rules D1 to D5, D14 and D15: every event once, whatever becomes of workers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from omnidaemon import Context, ResultTimeout
from omnidaemon.model.run import Ask, GrantKind, Outcome, OutcomeKind
from omnidaemon_testing.contracts.base import Stalled
from omnidaemon_testing.contracts.worker.base import WorkerBase, echo
from omnidaemon_testing.contracts.worker.blocking import hold_the_gil, sleeping, spinning

__all__ = ["DeliverRules"]


class Heard(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


class DeliverRules(WorkerBase):
    """Who runs what, and how often."""

    async def test_d1_a_vanished_worker_loses_nothing(self) -> None:
        """What a worker held when it vanished is run by another; nothing is lost, nothing settled twice.

        Trouble-shooting: acknowledge only after the settle, or after the inbox took it over.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            await asyncio.sleep(self.timing.quiet / 5)
            return await echo(message, ctx)

        sdks = [await self.worker(slow, max_concurrency=4) for _ in range(2)]
        observer = self.sdk()
        handles = await self.publish(observer, 40)
        for at, sdk in enumerate(sdks):
            await self.until_runs(10 * (at + 1))
            await self.vanish(sdk)
            await self.worker(slow, max_concurrency=4)
        await self.all_done(observer, handles, within=self.takeover())
        tasks = await self.tasks(observer, [handle.id for handle in handles])
        assert {task["state"] for task in tasks} == {"completed"}
        metrics = await observer.metrics(self.topic)
        assert metrics[self.topic]["agent"]["tasks_processed"] == 40, "an event was settled twice, or not at all"

    async def test_d2_no_more_than_max_concurrency_at_a_time(self) -> None:
        """An agent runs at most ``max_concurrency`` events at a time in one process; 1 means one.

        Trouble-shooting: runs that wait for their slot must not be started.
        """
        running = {"one": 0, "three": 0}
        most = dict(running)

        async def count(message: dict[str, Any], ctx: Context) -> None:
            assert message is not None
            running[ctx.agent] += 1
            most[ctx.agent] = max(most[ctx.agent], running[ctx.agent])
            await asyncio.sleep(self.timing.quiet / 10)
            running[ctx.agent] -= 1

        sdk = self.sdk()
        self.serve(sdk, count, name="one", max_concurrency=1)
        self.serve(sdk, count, name="three", max_concurrency=3)
        await sdk.start()
        handles = await self.publish(sdk, 12)
        for agent in most:
            await self.all_done(sdk, handles, agent)
        assert most == {"one": 1, "three": 3}

    async def test_d2_a_busy_worker_hoards_nothing(self) -> None:
        """A worker whose slots are taken leaves the rest to others, at once.

        Trouble-shooting: ask the bus for free slots only.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        busy = await self.worker(wait, max_concurrency=2)
        handles = await self.publish(busy, 10)
        await self.until_runs(2)
        other = await self.worker(max_concurrency=2)
        await self.all_done(other, handles[2:])
        gate.set()
        await self.all_done(other, handles)
        assert all(self.starts(handle.id) == 1 for handle in handles)

    async def test_d3_a_dead_worker_s_event_runs_elsewhere(self) -> None:
        """Within lease + 5 s another worker runs what a dead one had begun, as the same attempt.

        Trouble-shooting: look at the redelivery of the bus, at BUSY going to the inbox, at ``due``.
        """
        hang = asyncio.Event()

        async def hanging(message: dict[str, Any], ctx: Context) -> Any:
            await hang.wait()
            return await echo(message, ctx)

        dead = await self.worker(hanging)
        handle = await dead.publish(self.topic, "first")
        await self.until_runs(1)
        await self.vanish(dead)
        gone = self.time()
        alive = await self.worker()
        await self.until_runs(2, within=self.takeover())
        assert self.time() - gone <= self.takeover() + self.timing.slack
        assert await alive.task(f"{handle.id}:agent").result(timeout=self.timing.deadline) == "first"
        assert [run.attempt for run in self.runs] == [1, 1], "a lost start is no failed attempt"
        task = await alive.get_task(f"{handle.id}:agent")
        assert task is not None
        assert task["starts"] == 2

    async def keeps_its_lease(self, do: Any) -> None:
        """Run one event for ten leases beside an idle worker; it must be started once."""
        # For three leases the bus holds it, then the inbox: both must be kept.
        settings = {"adopt_after": self.timing.lease * 3}
        sdk = await self.worker(do, settings=settings)
        other = await self.worker(do, settings=settings)
        handle = await sdk.publish(self.topic, 10 * self.timing.lease)
        # Looked at from the loop that is blocked: what waits there may run into its time-outs.
        await self.all_done(sdk, [handle], within=10 * self.timing.lease)
        await self.sleep(self.timing.quiet)
        assert other.running
        assert self.starts(handle.id) == 1, "another worker took over a run that was alive"
        task = await sdk.get_task(handle.id)
        assert task is not None
        assert task["starts"] == 1

    async def test_d4_a_slow_run_keeps_its_lease(self) -> None:
        """A run that awaits for ten leases is one run.

        Trouble-shooting: renew at a third of the lease, claim and delivery both.
        """

        async def wait(message: dict[str, Any], ctx: Context) -> None:
            assert ctx.attempt == 1
            await asyncio.sleep(message["content"])

        await self.keeps_its_lease(wait)

    async def test_d4_a_blocking_call_keeps_its_lease(self) -> None:
        """A run that blocks its event loop by ``time.sleep`` for ten leases is one run, and is logged.

        Trouble-shooting: renewal runs in a thread of its own, with a loop of its own.
        """
        self.needs_real_time()
        heard = Heard()
        logger = logging.getLogger("omnidaemon.worker")
        logger.addHandler(heard)
        self._closing.callback(logger.removeHandler, heard)
        await self.keeps_its_lease(sleeping)
        stacks = [text for text in heard.texts if "blocked" in text]
        assert stacks, "a stall longer than lease/3 is logged"
        assert "sleeping" in stacks[0], f"its stack shows who blocks: {stacks[0]}"

    async def test_d4_a_python_loop_keeps_its_lease(self) -> None:
        """A run that computes in pure Python for ten leases is one run.

        Trouble-shooting: the I/O thread gets the GIL every few milliseconds; it must not need it long.
        """
        self.needs_real_time()
        await self.keeps_its_lease(spinning)

    async def test_d4_a_c_call_below_the_lease_keeps_it(self) -> None:
        """Calls into C that hold the GIL, each for less than the lease, cost no lease.

        Trouble-shooting: renew early enough that one missed turn does not matter.
        """
        self.needs_real_time()

        async def attempt() -> None:
            longest: list[float] = []
            try:
                await self.keeps_its_lease(hold_the_gil(self.timing.lease / 3, longest))
            except AssertionError:
                if max(longest) > self.timing.lease * 0.6:
                    raise Stalled from None
                raise

        await self.patiently(attempt)

    async def test_d4_an_unreachable_store_cancels_nothing(self) -> None:
        """While the store is away a run goes on; an expired claim that nobody took is renewed and settled.

        Trouble-shooting: only the definite answer "not the owner" cancels.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            await asyncio.sleep(self.timing.lease * 3)
            return await echo(message, ctx)

        sdk = await self.worker(slow)
        handle = await sdk.publish(self.topic, "kept")
        await self.until_runs(1)
        self.store_gate.down = True
        await self.sleep(self.timing.lease * 2)
        self.store_gate.down = False
        assert await handle.result(timeout=self.timing.deadline * 2) == "kept"
        assert self.starts(handle.id) == 1

    async def test_d5_who_lost_its_claim_is_cancelled_and_refused(self) -> None:
        """A worker that could not renew is cancelled; its late result and follow-ups are not kept.

        Trouble-shooting: the token fences every write; the refused worker asks what became of the run.
        """
        late = asyncio.Event()

        async def cut_off(message: dict[str, Any], ctx: Context) -> str:
            assert message is not None
            await ctx.publish("follow.up", "late")
            try:
                await late.wait()
            except asyncio.CancelledError:
                return "late, although cancelled"
            return "late"

        async def owner(message: dict[str, Any], ctx: Context) -> str:
            assert message is not None
            await ctx.publish("follow.up", "right")
            return "right"

        first = await self.worker(cut_off)
        handle = await first.publish(self.topic, "x")
        await self.until_runs(1)
        self.store_gate.broken |= {"renew", "settle", "claim", "due", "take"}
        second = await self.worker(owner, gated=False)
        await self.until_runs(2, within=self.takeover())
        assert await second.task(f"{handle.id}:agent").result(timeout=self.timing.deadline) == "right"
        self.store_gate.broken.clear()

        async def cancelled() -> bool:
            return isinstance(self.runs[0].error, asyncio.CancelledError) or self.runs[0].end is not None

        await self.until(cancelled, "the run that lost its claim is cancelled", within=self.takeover())
        late.set()
        await self.sleep(self.timing.quiet * 2)
        assert await second.task(f"{handle.id}:agent").result(timeout=1) == "right"
        events = await self.until(lambda: self.on_topic("follow.up"), "the follow-up")
        assert [event["payload"]["content"] for event in events] == ["right"]

    async def on_topic(self, topic: str) -> list[dict[str, Any]]:
        """Return the events on a topic, oldest first; skip where the bus keeps no history."""
        sdk = self._sdks[-1]
        await sdk.connections.get()
        if not sdk.event_bus.capabilities.history:
            self.absent(sdk.event_bus, "history")
        return [entry["data"] for entry in await sdk.inspect_topic(topic, 1000)][::-1]

    async def test_d14_two_workers_share_the_load(self) -> None:
        """Two workers of one agent run each event once between them, and both have work.

        Trouble-shooting: readers must be told apart; partitions must be spread.
        """
        seen: dict[str, list[str]] = {"left": [], "right": []}

        def by(name: str) -> Any:
            async def do(message: dict[str, Any], ctx: Context) -> None:
                assert message is not None
                seen[name].append(ctx.event.id)
                await asyncio.sleep(self.timing.quiet / 20)

            return do

        left = await self.worker(by("left"), max_concurrency=2)
        await self.worker(by("right"), max_concurrency=2)
        handles = await self.publish(left, 60)
        await self.all_done(left, handles)
        assert sorted(seen["left"] + seen["right"]) == sorted(handle.id for handle in handles)
        assert seen["left"], "one worker did all the work"
        assert seen["right"], "one worker did all the work"

    async def test_d15_a_long_run_leaves_the_bus(self) -> None:
        """A run older than ``adopt_after`` lies in the inbox, acknowledged on the bus, and is one run.

        Trouble-shooting: adopt under the claim, then acknowledge.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(wait, settings={"adopt_after": self.timing.quiet})
        await sdk.connections.get()
        handle = await sdk.publish(self.topic, "long")
        await self.until_runs(1)
        group = await self.group(sdk)

        async def adopted() -> bool:
            counts = await sdk.store.count(group)
            info = next(info for info in (await sdk.event_bus.info(self.topic)).groups if info.group == group)
            return counts["inbox"] == 1 and info.pending.value in (0, None)

        await self.until(adopted, "the inbox holds the event and the bus does not")
        await self.sleep(self.timing.lease * 2)
        gate.set()
        assert await handle.result(timeout=self.timing.deadline) == "long"
        assert self.starts(handle.id) == 1

    async def test_d18_a_lost_acknowledgement_costs_no_run(self) -> None:
        """What was settled and not acknowledged comes again, is looked up, and not run.

        Trouble-shooting: the redelivery meets the done mark and is acknowledged.
        """
        sdk = await self.worker()
        self.bus_gate.dropped.add("ack")
        handle = await sdk.publish(self.topic, "once")
        await handle.result(timeout=self.timing.deadline)
        self.bus_gate.dropped.clear()
        await self.vanish(sdk)
        other = await self.worker()
        await self.sleep(self.timing.lease * 2)
        marker = await other.publish(self.topic, "marker")
        await marker.result(timeout=self.timing.deadline)
        assert self.starts(handle.id) == 1

    async def test_m1_lost_replies_run_nothing_twice(self) -> None:
        """Claims, due calls and settles whose replies get lost are repeated without harm.

        Trouble-shooting: the worker makes up tokens and call ids before it asks.
        """
        sdk = await self.worker()
        handles = []
        for method in ("claim", "take", "settle", "due", "adopt", "renew"):
            self.store_gate.lossy = {method}
            handles += await self.publish(sdk, 3)
            await self.sleep(self.timing.quiet)
            self.store_gate.lossy = set()
            await self.sleep(self.timing.quiet)
        await self.all_done(sdk, handles, within=self.takeover())
        assert [self.starts(handle.id) for handle in handles] == [1] * len(handles)
        metrics = await sdk.metrics(self.topic)
        assert metrics[self.topic]["agent"]["tasks_processed"] == len(handles)

    async def test_m3_nobody_s_run_is_run_again(self) -> None:
        """A run whose settle is refused and that nobody owns is neither lost nor acknowledged.

        Trouble-shooting: after a refused settle, ask again what became of the run.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(wait)
        outside = self.sdk(gated=False)
        await outside.connections.get()
        handle = await sdk.publish(self.topic, "mine")
        await self.until_runs(1)
        group = await self.group(outside)
        self.store_gate.broken |= {"renew", "claim", "take", "due", "adopt"}

        async def taken() -> bool:
            (grant,) = await outside.store.claim("ghost", [Ask(group, handle.id, "ghostly", 60.0)])
            return grant.kind is GrantKind.GRANTED

        await self.until(taken, "the ghost's takeover", within=self.timing.lease + self.timing.slack)
        outcome = Outcome(group, handle.id, "ghostly", OutcomeKind.HANDBACK)
        assert await outside.store.settle([outcome]) == [True]
        gate.set()
        await self.sleep(self.timing.quiet)
        self.store_gate.broken.clear()
        assert await handle.result("agent", timeout=self.takeover() + self.timing.deadline) == "mine"

    async def test_port_waiting_for_a_result_can_end(self) -> None:
        """``result(timeout)`` raises ``ResultTimeout`` and leaves the task alone.

        Trouble-shooting: a wait is no part of the work.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(wait)
        handle = await sdk.publish(self.topic, "x")
        begun = time.monotonic()
        async with self.refusal(ResultTimeout):
            await handle.result(timeout=self.timing.quiet)
        assert time.monotonic() - begun < self.timing.deadline
        gate.set()
        assert await handle.result(timeout=self.timing.deadline) == "x"
