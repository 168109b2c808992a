"""Questions to a human (api.md §4, R6)."""

import collections
from datetime import timedelta

import pytest

from omnidaemon import (
    Context,
    RetryPolicy,
    TaskFailed,
)


@pytest.fixture
def calls():
    return collections.Counter()


def test_a_question_spends_no_attempt_and_keeps_what_was_done(sdk, serve, run, eventually, calls):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work(ctx: Context):
        calls["runs"] += 1
        await ctx.step("fetch", lambda: calls.update(steps=1))
        try:
            first = await ctx.ask("first", "1?", timeout=timedelta(seconds=60))
        except Exception as error:  # noqa: BLE001 - this is what users write
            return f"swallowed {error!r}"
        second = await ctx.ask("second", "2?")
        if ctx.attempt == 1:
            raise OSError
        return [first, second, ctx.attempt]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            task = event.task("work")

            async def asks(key):
                record = await task.info()
                return (
                    record is not None
                    and record.get("asked", {}).get("key") == key
                    and record["state"] == "input_required"
                )

            await eventually(lambda: asks("first"))
            await task.answer("first", 1)
            await eventually(lambda: asks("second"))
            await task.answer("second", {"two": 2})
            assert await task.result(timeout=1) == [1, {"two": 2}, 2]
            record = await task.info()
            assert "asked" not in record
            assert calls == {"runs": 4, "steps": 1}
            assert (await sdk.metrics())["t"]["work"]["asked"] == 2

    run(main())


def test_an_unanswered_question_is_a_dead_letter(sdk, serve, run):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.ask("k", "?", timeout=0.05)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed, match="not answered in time") as caught:
                await event.result(timeout=2)
            assert caught.value.reason == "unanswered"
            assert [letter["reason"] for letter in await sdk.dead_letters()] == ["unanswered"]

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_question_with_a_senseless_timeout(sdk, serve, run, timeout):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.ask("k", "?", timeout=timeout)

    async def main():
        async with serve(sdk):
            with pytest.raises(TaskFailed, match="use seconds >= 0, or None"):
                await (await sdk.publish("t")).result(timeout=1)

    run(main())


def test_cancelling_a_task_that_waits_for_a_human(sdk, serve, run, eventually):
    @sdk.agent("t", max_concurrency=1)
    async def work(ctx: Context, message):
        return await ctx.ask("k", "?") if message["content"] == "ask" else "free"

    async def main():
        async with serve(sdk):
            waiting = await sdk.publish("t", "ask", session_id="s")

            async def asked():
                return (await sdk.list_tasks(state="input_required"))["tasks"]

            await eventually(asked)
            # Nothing is held meanwhile, neither slot nor lane.
            assert await (await sdk.publish("t", "other", session_id="s")).result(timeout=1) == "free"
            assert await waiting.task("work").cancel() is True
            assert (await waiting.task("work").info())["state"] == "canceled"

    run(main())
