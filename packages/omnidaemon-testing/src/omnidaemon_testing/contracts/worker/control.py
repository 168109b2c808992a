"""Rules C1 to C3, H2, H3, T1, T2, T3 and T4: commands and views from any process."""

from __future__ import annotations

import asyncio
from typing import Any

from omnidaemon import Context, RetryPolicy, TaskCanceled, TaskRejected
from omnidaemon_testing.contracts.worker.base import WorkerBase, echo

__all__ = ["ControlRules"]

_WITHIN = 2.0


class ControlRules(WorkerBase):
    """Commands to running workers, and what can be seen of them."""

    async def test_c1_a_pause_holds_everywhere(self) -> None:
        """Within 2 s of a pause from any process no worker starts that agent's events; others go on.

        Trouble-shooting: workers look at the version of the flags twice a second.
        """
        sdk = self.sdk()
        self.serve(sdk)
        self.serve(sdk, name="other")
        await sdk.start()
        commander = self.sdk()
        await (await sdk.publish(self.topic, "before")).result("agent", timeout=self.timing.deadline)
        assert await commander.pause_agent(self.topic, "agent")
        await self.sleep(_WITHIN)
        handles = await self.publish(sdk, 5)
        await self.all_done(sdk, handles, "other")
        await self.sleep(self.timing.quiet)
        assert [self.starts(handle.id) for handle in handles] == [0] * 5
        agent = await commander.get_agent(self.topic, "agent")
        assert agent is not None
        assert agent["state"] == "paused"
        assert await commander.resume_agent(self.topic, "agent")
        resumed = self.time()
        await self.all_done(sdk, handles)
        assert self.time() - resumed <= _WITHIN + self.timing.slack
        assert [self.starts(handle.id) for handle in handles] == [1] * 5

    async def test_c1_a_pause_lets_running_work_finish_and_outlives_a_restart(self) -> None:
        """What runs when the pause comes is finished; a worker started later is paused from its start.

        Trouble-shooting: a worker reads the flags before its first event.
        """
        gate = asyncio.Event()

        async def wait(message: dict[str, Any], ctx: Context) -> Any:
            await gate.wait()
            return await echo(message, ctx)

        sdk = await self.worker(wait)
        running = await sdk.publish(self.topic, "running")
        await self.until_runs(1)
        await sdk.pause_agent(self.topic, "agent")
        await self.sleep(_WITHIN)
        gate.set()
        assert await running.result(timeout=self.timing.deadline) == "running"
        await sdk.shutdown(grace=1)
        other = await self.worker()
        waiting = await other.publish(self.topic, "waiting")
        await self.sleep(self.timing.quiet * 2)
        assert self.starts(waiting.id) == 0
        await other.resume_agent(self.topic, "agent")
        assert await waiting.result(timeout=self.timing.deadline) == "waiting"

    async def test_c2_cancelling_reaches_a_run(self) -> None:
        """A running task is cancelled within 2 s: the agent sees it, its result is not kept.

        Trouble-shooting: a cancel raises the flags' version; workers then renew at once.
        """
        sdk = await self.worker(self.forever)
        handle = await sdk.publish(self.topic, "x")
        await self.until_runs(1)
        assert await self.sdk().cancel(f"{handle.id}:agent")
        async with self.refusal(TaskCanceled):
            await handle.result(timeout=self.timing.deadline)

        async def told() -> bool:
            return isinstance(self.runs[0].error, asyncio.CancelledError)

        await self.until(told, "the run is cancelled", within=_WITHIN + self.timing.slack)
        assert not await handle.task("agent").cancel(), "it had ended"

    async def forever(self, message: dict[str, Any], ctx: Context) -> None:
        """Run until cancelled."""
        assert message is not None
        assert ctx is not None
        await asyncio.Event().wait()

    async def test_c2_cancelling_reaches_what_waits_or_was_never_met(self) -> None:
        """A task that waits for its retry, and one that no worker has met, are never started again.

        Trouble-shooting: the mark of an unmet task waits for its claim.
        """

        async def fails(message: dict[str, Any], ctx: Context) -> None:
            raise ConnectionError(f"{message['content']} {ctx.attempt}")

        sdk = await self.worker(fails, retry=RetryPolicy(initial=0.3, factor=1, jitter="none"))
        retrying = await sdk.publish(self.topic, "retrying")
        await self.until_runs(1)
        await self.until_state(sdk, retrying, "submitted")
        assert await retrying.task("agent").cancel()
        await sdk.stop()
        unmet = await sdk.publish(self.topic, "unmet")
        assert await sdk.cancel(f"{unmet.id}:agent")
        await sdk.start()
        for handle in (retrying, unmet):
            async with self.refusal(TaskCanceled):
                await handle.result("agent", timeout=self.timing.deadline)
        await self.sleep(0.5)
        assert [self.starts(handle.id) for handle in (retrying, unmet)] == [1, 0]

    async def test_c3_a_deleted_agent_stays_deleted(self) -> None:
        """A running worker stops serving an agent that another process deletes, and never brings it back.

        Trouble-shooting: the tombstone has the epoch; claims of the old one read GONE.
        """
        sdk = await self.worker()
        commander = self.sdk()
        await (await sdk.publish(self.topic, "before")).result("agent", timeout=self.timing.deadline)
        gone = await commander.delete_agent(self.topic, "agent", delete_group=True, delete_dlq=True)
        assert gone.agents == 1
        assert await commander.list_agents() == {}
        handles = await self.publish(sdk, 3)
        await self.sleep(_WITHIN)
        assert [self.starts(handle.id) for handle in handles] == [0, 0, 0]
        assert await commander.list_agents() == {}, "a stale worker brought the agent back"
        await sdk.shutdown(grace=0.2)
        again = await self.worker()
        fresh = await again.publish(self.topic, "fresh")
        assert await fresh.result("agent", timeout=self.timing.deadline) == "fresh"
        assert [self.starts(handle.id) for handle in handles] == [0, 0, 0], "registered again it begins now"

    async def test_c3_deleting_counts_what_goes(self) -> None:
        """The reply of a deletion counts the waiting work and the dead letters that went with it.

        Trouble-shooting: count in the step that deletes.
        """

        async def fails(message: dict[str, Any], ctx: Context) -> None:
            raise ConnectionError(f"{message['content']} {ctx.attempt}")

        sdk = self.sdk()
        self.serve(sdk, fails, retry=RetryPolicy(initial=60, jitter="none"))
        self.serve(sdk, fails, name="other", retry=RetryPolicy(max_attempts=1))
        await sdk.start()
        handles = await self.publish(sdk, 3)
        for handle in handles:
            await self.until_state(sdk, handle, "submitted")
            await self.until_state(sdk, handle, "failed", "other")
        gone = await sdk.delete_topic(self.topic)
        assert (gone.agents, gone.inbox, gone.dead_letters) == (2, 3, 3)
        assert await sdk.list_topics() == []
        assert await sdk.list_agents() == {}

    async def test_h2_history_is_replayed_to_one_agent(self) -> None:
        """A replay runs a stretch of history again for one agent, as the next generation, and moves no group.

        Trouble-shooting: read the history without a group, and rerun by decision.
        """
        sdk = self.sdk()
        self.serve(sdk)
        self.serve(sdk, name="other")
        await sdk.start()
        if not sdk.choose().bus.capabilities.history:
            self.absent(sdk.choose().bus, "history")
        handles = await self.publish(sdk, 5)
        for agent in ("agent", "other"):
            await self.all_done(sdk, handles, agent)
        report = await self.sdk().replay(self.topic, "agent")
        assert (report.replayed, report.busy) == (5, 0)
        await self.until_runs(15)
        again = await self.sdk().replay(self.topic, "agent", job=report.job)
        assert again.replayed == 5, "a resumed job repeats nothing"
        await self.sleep(self.timing.quiet)
        assert [self.starts(handle.id) for handle in handles] == [2] * 5
        assert [self.starts(handle.id, "other") for handle in handles] == [1] * 5
        await self.all_done(sdk, handles)
        task = await sdk.get_task(f"{handles[0].id}:agent")
        assert task is not None
        assert task["generation"] > 0

    async def test_h3_what_is_skipped_is_rejected(self) -> None:
        """Skipping forward marks what an agent has not met as rejected, counted, and it never runs.

        Trouble-shooting: each skipped event is claimed and settled.
        """
        sdk = self.sdk()
        self.serve(sdk)
        await sdk.start()
        if not sdk.choose().bus.capabilities.history:
            self.absent(sdk.choose().bus, "history")
        await (await sdk.publish(self.topic, "before")).result("agent", timeout=self.timing.deadline)
        await sdk.stop()
        handles = await self.publish(sdk, 4)
        assert await sdk.skip(self.topic, "agent") == 4
        await sdk.start()
        fresh = await sdk.publish(self.topic, "fresh")
        assert await fresh.result("agent", timeout=self.timing.deadline) == "fresh"
        async with self.refusal(TaskRejected):
            await handles[0].result("agent", timeout=self.timing.deadline)
        assert [self.starts(handle.id) for handle in handles] == [0] * 4
        assert (await sdk.metrics(self.topic))[self.topic]["agent"]["rejected"] == 4

    async def test_t1_health_tells_what_is_so(self) -> None:
        """Any process sees whether work goes on: backends, workers by heartbeat, agents with their lag.

        Trouble-shooting: workers write a heartbeat; nothing is inferred from this process.
        """
        observer = self.sdk()
        health = await observer.health()
        assert (health["status"], health["is_running"]) == ("ready", False)
        sdk = await self.worker()
        await (await sdk.publish(self.topic, "x")).result("agent", timeout=self.timing.deadline)

        async def running() -> bool:
            return bool((await observer.health())["status"] == "running")

        await self.until(running, "health is running")
        health = await observer.health()
        assert health["event_bus_connected"]
        assert health["storage_healthy"]
        assert [worker["running"] for worker in health["workers"]] == [0]
        assert health["agent_health"][f"{self.topic}/agent"]["lag"] in (0, {"value": None, "quality": "unknown"})
        await sdk.shutdown(grace=0.2)
        health = await observer.health()
        assert (health["status"], health["workers"]) == ("stopped", [])
        self.store_gate.down = True
        assert (await observer.health())["status"] == "down"
        self.store_gate.down = False

    async def test_t2_counters_are_exact(self) -> None:
        """After a run without crashes every counter is exact, however many workers there were.

        Trouble-shooting: counts are part of the settle.
        """

        async def mixed(message: dict[str, Any], ctx: Context) -> int:
            number = message["content"]
            if number % 10 == 3 or (number % 10 == 5 and ctx.attempt == 1):
                raise ValueError(number)
            return int(number)

        sdk = await self.worker(mixed)
        await self.worker(mixed)
        handles = await self.publish(sdk, 50)
        await self.all_done(sdk, handles)
        counts = (await self.sdk().metrics(self.topic))[self.topic]["agent"]
        shown = {name: counts[name] for name in ("tasks_received", "tasks_processed", "tasks_failed", "retried")}
        assert shown == {"tasks_received": 50, "tasks_processed": 45, "tasks_failed": 5, "retried": 15}
        assert (counts["attempts_failed"], counts["dead_lettered"]) == (20, 5)
        assert counts["errors"] == {"ValueError": 20}

    async def test_t3_two_deployments_never_meet(self) -> None:
        """Two namespaces on one server run their own events only, though one name begins the other.

        Trouble-shooting: see the same rule of bus and store.
        """
        short = self.prefix[:20]
        try:
            one, two = self.sdk(namespace=short), self.sdk(namespace=f"{short}2")
        except TypeError as error:
            self.not_tried(f"make_bus or make_store takes no namespace=: {error}")

        async def mark(message: dict[str, Any], ctx: Context) -> str:
            return f"two:{await echo(message, ctx)}"

        self.serve(one)
        self.serve(two, mark)
        await one.start()
        await two.start()
        left, right = await one.publish(self.topic, "a"), await two.publish(self.topic, "b")
        assert await left.result("agent", timeout=self.timing.deadline) == "a"
        assert await right.result("agent", timeout=self.timing.deadline) == "two:b"
        await two.delete_topic(self.topic)
        assert list(await one.list_agents()) == [self.topic]
        assert (await one.list_tasks())["tasks"][0]["content"] == "a"

    async def test_t4_the_tenant_goes_everywhere(self) -> None:
        """``tenant_id`` reaches agent, record, follow-ups and every query; it is in no name.

        Trouble-shooting: it is an attribute of the event.
        """
        seen: list[Any] = []

        async def follow(message: dict[str, Any], ctx: Context) -> None:
            seen.append((message["tenant_id"], ctx.event.tenant_id))
            await ctx.publish("orders.paid", "paid")

        sdk = self.sdk()
        self.serve(sdk, follow)
        self.serve(sdk, topic="orders.paid", name="second")
        await sdk.start()
        await (await sdk.publish(self.topic, 1, tenant_id="acme")).result("agent", timeout=self.timing.deadline)
        await (await sdk.publish(self.topic, 2)).result("agent", timeout=self.timing.deadline)

        async def both() -> bool:
            page = await sdk.list_tasks(tenant="acme", state="completed")
            return {task["agent"] for task in page["tasks"]} == {"agent", "second"}

        await self.until(both, "both tasks of the tenant")
        assert seen == [("acme", "acme"), (None, None)]
        assert {task["content"] for task in (await sdk.list_tasks(tenant="acme"))["tasks"]} == {1, "paid"}
