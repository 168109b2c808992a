"""Handles: what waiting for an event or a task gives (api.md §3)."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest
from pydantic import BaseModel

from omnidaemon import (
    AmbiguousTask,
    Context,
    NonRetryable,
    ResultTimeout,
    RetryPolicy,
    TaskCanceled,
    TaskError,
    TaskFailed,
    TaskNotFound,
    TaskRejected,
    TaskState,
)


class Summary(BaseModel):
    words: int


@dataclasses.dataclass
class Point:
    x: int


def test_publish_returns_a_handle_with_id_and_topic(sdk, run):
    async def main():
        async with sdk:
            event = await sdk.publish("t", {"a": 1})
            assert event.topic == "t"
            assert isinstance(event.id, str)
            assert event.id
            assert event.id in repr(event)
            assert (await sdk.publish("t", 1, id="mine")).id == "mine"

    run(main())


def test_result_gives_the_only_agents_value(sdk, serve, run):
    @sdk.agent("t")
    async def double(message):
        return message["content"] * 2

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 4)
            assert await event.result(timeout=1) == 8
            assert await event.result("double") == 8
            assert await event.task("double").result(timeout=1) == 8
            assert await sdk.task(f"{event.id}:double").result(timeout=1) == 8
            assert await sdk.task(event.id).result(timeout=1) == 8

    run(main())


def test_result_as_a_type(sdk, serve, run):
    @sdk.agent("t")
    async def summarise(message) -> Summary:
        return Summary(words=message["content"])

    @sdk.agent("p")
    async def point():
        return Point(3)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 3)
            assert await event.result(agent="summarise", timeout=1, as_=Summary) == Summary(words=3)
            assert await event.result(timeout=1) == {"words": 3}
            assert await (await sdk.publish("p", 0)).result(timeout=1, as_=Point) == Point(3)

    run(main())


def test_result_of_a_failed_task_raises_all_that_is_known(sdk, serve, run):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def bad():
        raise KeyError("lost")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            with pytest.raises(TaskFailed, match=f"{event.id}:bad failed: KeyError: 'lost'") as caught:
                await event.result(timeout=2)
            error = caught.value
            assert (error.type, error.message, error.attempts, error.reason) == (
                "KeyError",
                "'lost'",
                2,
                "max_attempts",
            )
            assert 'raise KeyError("lost")' in error.traceback

    run(main())


def test_result_of_a_cancelled_task_raises(sdk, serve, run):
    @sdk.agent("t")
    async def slow():
        await asyncio.sleep(30)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            assert await event.task().cancel() is True
            with pytest.raises(TaskCanceled, match=event.id):
                await event.result(timeout=1)
            assert await event.task().cancel() is False

    run(main())


def test_result_of_an_expired_task_raises(sdk, serve, run):
    ran = []

    @sdk.agent("t")
    async def never(message):
        ran.append(message)

    async def main():
        async with sdk:
            event = await sdk.publish("t", 1, expires_at=1.0)
        async with serve(sdk):
            with pytest.raises(TaskRejected, match="expired"):
                await event.result(timeout=1)
        assert ran == []

    run(main())


def test_result_without_any_agent_times_out_and_says_so(sdk, run):
    async def main():
        async with sdk:
            event = await sdk.publish("t", 1)
            with pytest.raises(ResultTimeout, match=r"no agent has taken event .* within 0.02 s; is a worker running"):
                await event.result(timeout=0.02)
            with pytest.raises(TimeoutError):
                await event.result(timeout=0)

    run(main())


def test_result_of_a_running_task_times_out_and_says_its_state(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def slow():
        await asyncio.sleep(30)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            await eventually(lambda: event.task("slow").info())
            with pytest.raises(ResultTimeout, match=f"{event.id}:slow is working after 0.02 s"):
                await event.result("slow", timeout=0.02)

    run(main())


def test_result_of_several_agents_is_ambiguous_and_names_them(sdk, serve, run):
    @sdk.agent("t")
    async def one():
        return 1

    @sdk.agent("t")
    async def two():
        return 2

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 0)
            with pytest.raises(AmbiguousTask, match="one, two; name one with agent="):
                await event.result(timeout=1)
            assert await event.result(agent="two", timeout=1) == 2
            assert await event.result(agent="one", timeout=1) == 1
            for asked in (sdk.get_task, sdk.get_result, sdk.cancel):
                with pytest.raises(AmbiguousTask, match=f"{event.id}:one, {event.id}:two"):
                    await asked(event.id)
            with pytest.raises(AmbiguousTask):
                await sdk.task(event.id).result(timeout=1)

    run(main())


def test_results_gives_every_agents_outcome(sdk, serve, run):
    @sdk.agent("t")
    async def fine():
        return {"ok": True}

    @sdk.agent("t")
    async def broken():
        raise NonRetryable("no")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 0)
            results = await event.results(timeout=1)
            assert set(results) == {"fine", "broken"}
            assert results["fine"].state == "completed"
            assert results["fine"].value == {"ok": True}
            assert results["fine"].error is None
            assert results["broken"].state is TaskState.FAILED
            assert isinstance(results["broken"].error, TaskFailed)
            assert results["broken"].error.reason == "non_retryable"

    run(main())


def test_results_time_out_and_name_who_is_missing(sdk, serve, run):
    @sdk.agent("t")
    async def quick():
        return 1

    @sdk.agent("t")
    async def slow():
        await asyncio.sleep(30)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 0)
            with pytest.raises(ResultTimeout, match=f"{event.id} has no outcome after 0.05 s from: slow"):
                await event.results(timeout=0.05)
            lonely = await sdk.publish("nobody", 0)
            with pytest.raises(ResultTimeout, match="no agent is known on the topic"):
                await lonely.results(timeout=0.02)

    run(main())


def test_get_task_is_none_before_a_claim_and_any_state_after(sdk, serve, run, eventually):
    release = asyncio.Event()

    @sdk.agent("t")
    async def work():
        await release.wait()
        return "done"

    async def main():
        async with sdk:
            event = await sdk.publish("t", 1)
            assert await sdk.get_task(event.id) is None
            assert await sdk.get_task(f"{event.id}:work") is None
            assert await event.task("work").info() is None
        async with serve(sdk):
            record = await eventually(lambda: sdk.get_task(event.id))
            assert record["state"] == record["status"] == "working"
            assert record["task_id"] == event.id
            assert record["id"] == f"{event.id}:work"
            assert await sdk.get_result(event.id) is None
            release.set()
            await event.result(timeout=1)
            assert (await sdk.get_task(event.id))["state"] == "completed"

    run(main())


def test_a_task_that_waits_for_its_retry_says_when_and_why(sdk, serve, run, eventually):
    @sdk.agent("t", retry=RetryPolicy(initial=100, jitter="none"))
    async def flaky():
        raise OSError("busy")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            await eventually(lambda: sdk.get_task(event.id))

            async def waiting():
                record = await sdk.get_task(event.id)
                return record if record["state"] == "submitted" else None

            record = await eventually(waiting)
            now = await sdk.store.now()
            assert record["last_error"] == {"type": "OSError", "message": "busy"}
            assert now + 90 < record["next_attempt_at"] <= now + 100
            assert record["attempt"] == 2

    run(main())


def test_cancel_before_anybody_met_the_task(sdk, serve, run):
    ran = []

    @sdk.agent("t")
    async def work():
        ran.append(1)

    async def main():
        async with serve(sdk):
            pass  # registers the agent
        async with sdk:
            event = await sdk.publish("t", 1)
            assert await sdk.cancel(f"{event.id}:work") is True
        async with serve(sdk):
            with pytest.raises(TaskCanceled):
                await event.result("work", timeout=1)
            other = await sdk.publish("t", 2)
            await other.result(timeout=1)
        assert len(ran) == 1

    run(main())


def test_cancel_of_what_nobody_could_run(sdk, run):
    async def main():
        async with sdk:
            event = await sdk.publish("t", 1)
            with pytest.raises(TaskNotFound, match=f"no agent is registered that could run task {event.id}"):
                await sdk.cancel(event.id)

    run(main())


def test_an_events_handle_knows_its_topic_when_it_cancels(sdk, serve, run):
    """The same agent name on two topics is no reason to be ambiguous."""
    seen = []

    async def work(message):
        seen.append(message["topic"])

    sdk.agent("one", name="work")(work)
    sdk.agent("two", name="work")(work)

    async def main():
        async with serve(sdk):
            pass
        async with sdk:
            event = await sdk.publish("one", 1)
            assert await event.task("work").cancel() is True
        async with serve(sdk):
            await (await sdk.publish("one", 2)).result(timeout=1)
            await (await sdk.publish("two", 2)).result(timeout=1)
        assert sorted(seen) == ["one", "two"]

    run(main())


def test_progress_is_an_ordered_stream_that_ends_with_the_task(sdk, serve, run):
    @sdk.agent("p")
    async def work(ctx: Context):
        await ctx.progress("begin", percent=10)
        await ctx.emit("a")
        await ctx.progress("end", percent=100, data={"n": 1})

    async def main():
        async with serve(sdk):
            event = await sdk.publish("p", 1)
            entries = [entry async for entry in event.task("work").progress()]
            assert [entry["n"] for entry in entries] == [1, 2, 3]
            assert entries[0]["message"] == "begin"
            assert entries[0]["percent"] == 10
            assert entries[1]["chunk"] == "a"
            assert entries[2]["data"] == {"n": 1}
            assert {entry["attempt"] for entry in entries} == {1}
            resumed = [entry async for entry in event.task("work").progress(after=1)]
            assert resumed == entries[1:]
            assert [entry async for entry in event.task().progress(after=3)] == []

    run(main())


def test_a_new_attempt_is_a_visible_boundary_in_the_progress(sdk, serve, run):
    @sdk.agent("t", retry=RetryPolicy(initial=0.001))
    async def work(ctx: Context):
        await ctx.progress(f"try {ctx.attempt}")
        if ctx.attempt == 1:
            raise OSError

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            entries = [entry async for entry in event.task().progress()]
            assert [(entry["n"], entry["attempt"], entry["message"]) for entry in entries] == [
                (1, 1, "try 1"),
                (2, 2, "try 2"),
            ]

    run(main())


def test_an_answer_lets_the_task_go_on_and_a_second_one_is_stale(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def approve(ctx: Context):
        return {"answer": await ctx.ask("ok", "May I?", schema={"type": "boolean"})}

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            task = event.task("approve")
            with pytest.raises(TaskNotFound):
                await sdk.task("nothing:approve").answer("ok", True)

            async def asked():
                record = await task.info()
                return record if record and record["state"] == "input_required" else None

            record = await eventually(asked)
            assert record["asked"]["key"] == "ok"
            assert record["asked"]["question"] == "May I?"
            assert record["asked"]["schema"] == {"type": "boolean"}
            assert record["attempt"] == 1
            with pytest.raises(TaskError, match=r"does not wait for the question 'other': it waits for 'ok'"):
                await task.answer("other", True)
            await task.answer("ok", True)
            assert await task.result(timeout=1) == {"answer": True}
            with pytest.raises(TaskError, match=r"does not wait for the question 'ok': it is completed"):
                await task.answer("ok", False)

    run(main())


def test_a_task_id_with_colons_in_the_event_id(sdk, serve, run):
    @sdk.agent("t")
    async def work(message):
        return message["task_id"]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1, id="order:17")
            assert await event.result(timeout=1) == "order:17"
            assert await sdk.task("order:17").result(timeout=1) == "order:17"
            assert await sdk.task("order:17:work").result(timeout=1) == "order:17"
            assert (await sdk.get_task("order:17"))["id"] == "order:17:work"

    run(main())


def test_timeouts_may_be_timedeltas(sdk, run):
    async def main():
        async with sdk:
            event = await sdk.publish("t", 1)
            with pytest.raises(ResultTimeout, match=r"within 0.01 s"):
                await event.result(timeout=timedelta(milliseconds=10))
            with pytest.raises(ResultTimeout, match=r"after 0.01 s"):
                await event.results(timeout=timedelta(milliseconds=10))

    run(main())
