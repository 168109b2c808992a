"""Rules D12, R3 to R6, M11 and S12: order, sessions, progress, people and follow-ups."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from omnidaemon import Context, RetryPolicy, TaskError, TaskFailed
from omnidaemon_testing.contracts.worker.base import WorkerBase

__all__ = ["LaneRules"]


class LaneRules(WorkerBase):
    """What an agent's runs have to do with each other, and with people."""

    async def in_order(self, field: str) -> None:
        """Publish events of three lanes to two workers; each lane must run one at a time, in order."""
        running: dict[str, int] = defaultdict(int)
        order: dict[str, list[int]] = defaultdict(list)

        async def work(message: dict[str, Any], ctx: Context) -> None:
            lane = getattr(ctx.event, field)
            running[lane] += 1
            assert running[lane] == 1, f"two runs of {lane} at the same time"
            await asyncio.sleep(self.timing.quiet / 50)
            running[lane] -= 1
            if message["content"] % 7 == 3 and ctx.attempt == 1:
                raise ConnectionError("the first attempt of some fails")
            order[lane].append(message["content"])

        first = await self.worker(work, max_concurrency=4)
        await self.worker(work, max_concurrency=4)
        handles = []
        for number in range(30):
            fields: dict[str, Any] = {field: f"lane{number % 3}"}
            handles.append(await first.publish(self.topic, number, **fields))
        await self.all_done(first, handles, within=self.takeover())
        for lane, numbers in order.items():
            assert numbers == sorted(numbers), f"{lane} ran out of order: {numbers}"
        tasks = await self.tasks(first, [handle.id for handle in handles])
        assert {task["state"] for task in tasks} == {"completed"}, [task.get("last_error") for task in tasks]

    async def test_d12_events_of_a_key_run_in_order(self) -> None:
        """One key's events run one at a time in the order they were published, also across retries.

        Trouble-shooting: a redelivery that overtakes is BEHIND and waits in the inbox.
        """
        sdk = self.sdk()
        if not sdk.choose().bus.capabilities.ordered_by_key:
            self.absent(sdk.choose().bus, "ordered_by_key")
        await self.in_order("key")

    async def test_d12_a_dead_letter_lets_the_next_go(self) -> None:
        """When a keyed event is given up on, the next of its key runs.

        Trouble-shooting: every final state leaves the lane.
        """
        sdk = self.sdk()
        if not sdk.choose().bus.capabilities.ordered_by_key:
            self.absent(sdk.choose().bus, "ordered_by_key")

        async def first_fails(message: dict[str, Any], ctx: Context) -> str:
            if message["content"] == 0:
                raise ValueError(ctx.attempt)
            return "went"

        sdk = await self.worker(first_fails, retry=RetryPolicy(max_attempts=2, initial=0.05, jitter="none"))
        handles = await self.publish(sdk, 2, key="k")
        assert await handles[1].result(timeout=self.timing.deadline) == "went"
        assert await self.state(sdk, handles[0]) == "failed"
        ends = [run.end for run in self.runs if run.event_id == handles[0].id]
        begin = next(run.begin for run in self.runs if run.event_id == handles[1].id)
        assert ends[-1] is not None
        assert begin >= ends[-1]

    async def test_r5_a_session_s_events_run_one_at_a_time(self) -> None:
        """Events of one session run one at a time, sessions side by side.

        Trouble-shooting: the session is the lane; on buses without order, of the store alone.
        """
        running: dict[str | None, int] = defaultdict(int)

        async def work(message: dict[str, Any], ctx: Context) -> None:
            assert message is not None
            running[ctx.event.session_id] += 1
            assert running[ctx.event.session_id] == 1, "two runs of one session at the same time"
            await asyncio.sleep(self.timing.quiet / 20)
            running[ctx.event.session_id] -= 1

        sdk = await self.worker(work, retry=RetryPolicy(max_attempts=1))
        await self.worker(work, retry=RetryPolicy(max_attempts=1))
        handles = [await sdk.publish(self.topic, n, session_id=f"chat{n % 3}") for n in range(18)]
        await self.all_done(sdk, handles, within=self.takeover())
        tasks = await self.tasks(sdk, [handle.id for handle in handles])
        assert {task["state"] for task in tasks} == {"completed"}

    async def test_r3_usage_is_in_record_and_metrics(self) -> None:
        """What a run used is summed in its record, over attempts, and in the metrics.

        Trouble-shooting: usage is part of the settle.
        """

        async def spend(message: dict[str, Any], ctx: Context) -> None:
            ctx.usage(input_tokens=10, cost=0.25)
            if message["content"] == 1 and ctx.attempt == 1:
                raise ConnectionError("spent all the same")

        sdk = await self.worker(spend)
        handles = await self.publish(sdk, 2)
        await self.all_done(sdk, handles)
        used = {task["content"]: task["usage"] for task in await self.tasks(sdk, [handle.id for handle in handles])}
        assert used == {0: {"input_tokens": 10, "cost": 0.25}, 1: {"input_tokens": 20, "cost": 0.5}}
        counts = (await sdk.metrics(self.topic))[self.topic]["agent"]
        assert counts["usage"] == {"input_tokens": 30, "cost": 0.75}

    async def test_r4_progress_can_be_followed_and_resumed(self) -> None:
        """Progress comes in order, from any process, live; a reader resumes; a new attempt is visible.

        Trouble-shooting: entries carry attempt and number.
        """
        gate = asyncio.Event()

        async def steps(message: dict[str, Any], ctx: Context) -> str:
            assert message is not None
            for number in range(3):
                await ctx.progress(f"step {number}", percent=number * 10)
            await ctx.emit({"partial": ctx.attempt})
            if ctx.attempt == 1:
                raise ConnectionError("again")
            await gate.wait()
            await ctx.progress("last")
            return "done"

        sdk = await self.worker(steps)
        handle = await sdk.publish(self.topic, "x")
        reader = self.sdk().task(f"{handle.id}:agent")
        seen: list[dict[str, Any]] = []
        async for entry in reader.progress(timeout=self.timing.deadline):
            seen.append(entry)
            if len(seen) == 8:
                break
        assert [entry["n"] for entry in seen] == list(range(1, 9))
        assert [entry["attempt"] for entry in seen] == [1] * 4 + [2] * 4
        assert [entry.get("message") for entry in seen[:3]] == ["step 0", "step 1", "step 2"]
        assert seen[3]["chunk"] == {"partial": 1}
        gate.set()
        rest = [entry async for entry in reader.progress(after=8, timeout=self.timing.deadline)]
        assert [(entry["n"], entry["message"]) for entry in rest] == [(9, "last")]

    async def test_r6_a_human_can_be_asked(self) -> None:
        """A run that asks ends and holds nothing; the answer runs it again, and it finds the answer.

        Trouble-shooting: steps keep the repeat cheap; no attempt is spent.
        """
        fetched = []

        async def fetch() -> str:
            fetched.append(1)
            return "draft"

        async def careful(message: dict[str, Any], ctx: Context) -> Any:
            assert message is not None
            text = await ctx.step("fetch", fetch)
            try:
                approved = await ctx.ask("ok", f"Send {text}?")
            except Exception:  # noqa: BLE001 - what a careless agent does
                return "swallowed"
            return [text, approved, ctx.attempt]

        sdk = await self.worker(careful, max_concurrency=1)
        handle = await sdk.publish(self.topic, "x")
        task = await self.until_state(sdk, handle, "input_required")
        assert task["asked"]["question"] == "Send draft?"
        person = self.sdk().task(f"{handle.id}:agent")
        async with self.refusal(TaskError):
            await person.answer("another question", value=True)
        await person.answer("ok", {"yes": True})
        async with self.refusal(TaskError):
            await person.answer("ok", {"yes": False})
        assert await handle.result(timeout=self.timing.deadline) == ["draft", {"yes": True}, 1]
        assert len(fetched) == 1, "a kept step was repeated"

    async def test_r6_an_unanswered_question_is_a_dead_letter(self) -> None:
        """A question that nobody answers in its time ends the task, reason ``unanswered``.

        Trouble-shooting: the wait is a due time in the store.
        """

        async def impatient(message: dict[str, Any], ctx: Context) -> Any:
            assert message is not None
            return await ctx.ask("ok", "Still there?", timeout=self.timing.quiet)

        sdk = await self.worker(impatient)
        handle = await sdk.publish(self.topic, "x")
        async with self.refusal(TaskFailed) as caught:
            await handle.result(timeout=self.timing.deadline)
        assert getattr(caught.error, "reason", None) == "unanswered"

    async def test_s12_follow_ups_are_sent_with_the_outcome_and_once(self) -> None:
        """What a run publishes is sent if and only if its attempt is settled well, and once.

        Trouble-shooting: follow-ups lie in the outbox until their publish is confirmed; ids are derived.
        """

        async def parent(message: dict[str, Any], ctx: Context) -> None:
            await ctx.publish("orders.paid", message["content"])
            if ctx.attempt == 1:
                raise ConnectionError("nothing of this attempt is sent")

        sdk = self.sdk()
        self.serve(sdk, parent)
        self.serve(sdk, topic="orders.paid", name="child")
        await sdk.start()
        handles = await self.publish(sdk, 5)
        await self.all_done(sdk, handles)

        async def children() -> bool:
            page = await sdk.list_tasks(agent="child", state="completed")
            return len(page["tasks"]) == 5

        await self.until(children, "five follow-ups have run")
        await self.sleep(self.timing.quiet)
        mine = [run for run in self.runs if run.agent == "child"]
        assert sorted(run.content for run in mine) == [0, 1, 2, 3, 4]

    async def test_m11_a_lost_bus_loses_no_follow_up(self) -> None:
        """Follow-ups whose publish fails, or whose confirmation is lost, are sent again and run once.

        Trouble-shooting: the outbox keeps them; the repeated id meets the claim.
        """

        async def parent(message: dict[str, Any], ctx: Context) -> None:
            self.bus_gate.lossy.add("publish")
            await ctx.publish("orders.paid", message["content"])

        sdk = self.sdk()
        self.serve(sdk, parent)
        self.serve(sdk, topic="orders.paid", name="child")
        await sdk.start()
        outside = self.sdk(gated=False)
        handle = await outside.publish(self.topic, "x")
        await handle.result("agent", timeout=self.timing.deadline)
        await self.sleep(self.timing.quiet)
        self.bus_gate.lossy.clear()

        async def child() -> bool:
            return any(run.agent == "child" and run.end for run in self.runs)

        # Fresh rows are their settler's for 15 s, or a relay's; then another relay sends them.
        await self.until(child, "the follow-up runs", within=self.timing.deadline + 16)
        await self.sleep(self.timing.quiet)
        assert sum(run.agent == "child" for run in self.runs) == 1
