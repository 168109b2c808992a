"""Task handles: records, cancelling, progress, answers (api.md §3)."""

import asyncio

import pytest

from omnidaemon import (
    Context,
    RetryPolicy,
    TaskCanceled,
    TaskError,
    TaskNotFound,
)


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
