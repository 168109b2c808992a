"""What a run does through its context: steps and usage (api.md §4)."""

import asyncio
import collections
import dataclasses
import time

import pytest

from omnidaemon import (
    Context,
    RetryAfter,
    RetryPolicy,
    TaskFailed,
)

QUICK = RetryPolicy(max_attempts=3, initial=0.001)


@dataclasses.dataclass
class Point:
    x: int


@pytest.fixture
def calls():
    return collections.Counter()


def test_what_the_context_tells(sdk, serve, run):
    seen = []

    @sdk.agent("t", timeout=50, retry=QUICK)
    async def work(ctx: Context):
        seen.append((ctx.event.content, ctx.agent, ctx.attempt, ctx.starts, ctx.cancelled.is_set(), ctx.state))
        seen.append(ctx.deadline)
        if ctx.attempt == 1:
            raise RetryAfter(0) if ctx.starts == 1 else OSError

    @sdk.agent("u")
    async def endless(ctx: Context):
        return ctx.deadline

    async def main():
        async with serve(sdk):
            before = time.time()
            await (await sdk.publish("t", "c")).result(timeout=3)
            assert seen[0::2] == [
                ("c", "work", 1, 1, False, None),
                ("c", "work", 1, 2, False, None),
                ("c", "work", 2, 3, False, None),
            ]
            assert all(before + 49 < deadline < before + 60 for deadline in seen[1::2])
            assert await (await sdk.publish("u")).result(timeout=1) is None

    run(main())


def test_a_step_is_kept_by_a_retry_and_what_it_raises_is_not(sdk, serve, run, calls):
    async def fetch(name, times):
        calls[name] += 1
        if calls[name] < times:
            raise OSError(name)
        return {"name": name}

    def blocking(value):
        calls["blocking"] += 1
        return [value]

    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        first = await ctx.step("first", fetch, "first", 1)
        second = await ctx.step("second", fetch, "second", 2)
        third = await ctx.step("third", blocking, Point(1))
        again = await ctx.step("first", fetch, "never", 1)
        return [first, second, third, again, await ctx.step("none", lambda: None)]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=1) == [
                {"name": "first"},
                {"name": "second"},
                [{"x": 1}],
                {"name": "first"},
                None,
            ]
            assert calls == {"first": 1, "second": 2, "blocking": 1}
            history = (await event.task().info())["history"]
            assert [sorted(entry["steps"]) for entry in history] == [["first"], ["none", "second", "third"]]
            assert all(isinstance(took, float) for entry in history for took in entry["steps"].values())

    run(main())


def test_steps_may_run_side_by_side(sdk, serve, run, calls):
    async def fetch(name):
        calls[name] += 1
        await asyncio.sleep(0.01)
        return name

    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        values = await asyncio.gather(*(ctx.step(name, fetch, name) for name in "abc"))
        if ctx.attempt == 1:
            raise OSError
        return values

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t")).result(timeout=1) == ["a", "b", "c"]
        assert calls == {"a": 1, "b": 1, "c": 1}

    run(main())


def test_a_step_is_kept_by_a_dead_letter_replay_and_not_by_a_history_replay(sdk, serve, run, eventually, calls):
    broken = True

    def fetch():
        calls["fetch"] += 1
        return calls["fetch"]

    @sdk.agent("t", retry=RetryPolicy(max_attempts=1))
    async def work(ctx: Context):
        value = await ctx.step("fetch", fetch)
        if broken:
            raise OSError
        return value

    async def main():
        nonlocal broken
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed):
                await event.result(timeout=1)
            broken = False
            assert await sdk.replay_dead_letters(f"{event.id}:work") == 1
            assert await event.result(timeout=1) == 1
            assert (await sdk.replay("t", "work")).replayed == 1

            async def again():
                return (await event.task().info()).get("result") == 2

            await eventually(again)

    run(main())


def test_usage_goes_into_the_record_and_the_metrics(sdk, serve, run):
    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        ctx.usage(input_tokens=10, cost=0.5)
        ctx.usage(input_tokens=5)
        if ctx.attempt == 1:
            raise OSError

    async def main():
        async with serve(sdk):
            for _ in range(2):
                event = await sdk.publish("t")
                await event.result(timeout=1)
            assert (await event.task().info())["usage"] == {"input_tokens": 30, "cost": 1.0}
            assert (await sdk.metrics())["t"]["work"]["usage"] == {"input_tokens": 60, "cost": 2.0}

    run(main())
