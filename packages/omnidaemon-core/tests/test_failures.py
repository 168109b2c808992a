"""Attempts that fail: retries, time-outs, postponements (design D6-D8, D10)."""

import asyncio
import itertools
import time
from datetime import timedelta

import pytest

from omnidaemon import (
    Context,
    NonRetryable,
    RetryAfter,
    RetryPolicy,
    TaskFailed,
)

QUICK = RetryPolicy(max_attempts=3, initial=0.001)


ONCE = RetryPolicy(max_attempts=1)


async def failure(event, timeout=2):
    with pytest.raises(TaskFailed) as caught:
        await event.result(timeout=timeout)
    return caught.value


def test_a_failed_attempt_is_repeated_and_the_message_says_which_it_is(sdk, serve, run):
    seen = []

    @sdk.agent("t", retry=QUICK)
    async def work(message, ctx: Context):
        seen.append((message["delivery_attempts"], ctx.attempt, ctx.event.delivery_attempts))
        if len(seen) < 3:
            raise OSError(len(seen))
        return "done"

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=1) == "done"
            assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
            record = await event.task().info()
            assert record["attempt"] == record["delivery_attempts"] == 3
            assert record["starts"] == 3
            assert "last_error" not in record
            assert [(entry["attempt"], entry.get("error_type")) for entry in record["history"]] == [
                (1, "OSError"),
                (2, "OSError"),
                (3, None),
            ]
            assert all(entry["worker"] == record["runner_id"] and entry["took"] >= 0 for entry in record["history"])

    run(main())


def test_retries_wait_as_the_policy_says(sdk, serve, run):
    times = []

    @sdk.agent("t", retry=RetryPolicy(max_attempts=4, initial=0.05, factor=2, max=0.08, jitter="none"))
    async def work():
        times.append(time.monotonic())
        raise OSError

    async def main():
        async with serve(sdk):
            await failure(await sdk.publish("t"))
            waits = [later - before for before, later in itertools.pairwise(times)]
            for wait, wanted in zip(waits, (0.05, 0.08, 0.08), strict=True):
                assert wanted <= wait < wanted + 0.1

    run(main())


def test_non_retryable_is_given_up_at_once(sdk, serve, run):
    @sdk.agent("t")
    async def work():
        raise NonRetryable("cannot help")

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.attempts, error.reason, error.message) == (1, "non_retryable", "cannot help")

    run(main())


def test_a_subclass_of_a_signal_counts_as_the_signal(sdk, serve, run):
    class Busy(RetryAfter):
        pass

    seen = []

    @sdk.agent("t", retry=ONCE)
    async def work():
        seen.append(1)
        if len(seen) == 1:
            raise Busy(0.001, "come back")
        return len(seen)

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t")).result(timeout=1) == 2

    run(main())


def test_retry_after_is_obeyed_and_spends_no_attempt(sdk, serve, run):
    times = []

    @sdk.agent("t", retry=ONCE)
    async def work(ctx: Context):
        times.append(time.monotonic())
        if len(times) < 3:
            raise RetryAfter(0.05)
        return ctx.attempt

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=2) == 1
            assert all(later - before >= 0.05 for before, later in itertools.pairwise(times))
            metrics = (await sdk.metrics())["t"]["work"]
            assert metrics["postponed"] == 2
            assert metrics["attempts_failed"] == 0

    run(main())


def test_retry_after_ends_after_100_times_and_a_replay_begins_anew(sdk, serve, run):
    runs = []

    @sdk.agent("t")
    async def work():
        runs.append(1)
        raise RetryAfter(0)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            error = await failure(event, 5)
            assert error.reason == "retry_after_exhausted"
            assert len(runs) == 101
            record = await event.task().info()
            assert len(record["history"]) == 20
            assert await sdk.replay_dead_letters(event.id) == 1
            while len(runs) < 202 or (await event.task().info())["state"] != "failed":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert len(runs) == 202

    run(main())


def test_retry_after_that_would_be_too_late(sdk, serve, run):
    runs = []

    @sdk.agent("t")
    async def work():
        runs.append(1)
        raise RetryAfter(60)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", expires_at=time.time() + 30)
            error = await failure(event)
            assert error.reason == "retry_after_exhausted"
            assert len(runs) == 1

    run(main())


def test_retry_after_takes_a_timedelta_and_no_nonsense():
    assert RetryAfter(timedelta(minutes=1)).seconds == 60
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            RetryAfter(seconds)


def test_a_timeout_is_a_failed_attempt_and_cancels(sdk, serve, run):
    seen = []

    @sdk.agent("t", timeout=0.03, retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work(ctx: Context):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append(ctx.cancelled.is_set())
            raise

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.type, error.reason, error.attempts) == ("TimeoutError", "timeout", 2)
            assert error.message == "the attempt took longer than timeout=0.03 s"
            assert len(seen) == 2

    run(main())


def test_an_agent_that_swallows_its_cancellation_is_late_all_the_same(sdk, serve, run):
    @sdk.agent("t", timeout=0.03, retry=ONCE)
    async def work():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "too late"

    async def main():
        async with serve(sdk):
            assert (await failure(await sdk.publish("t"))).reason == "timeout"

    run(main())


def test_an_agents_own_timeout_error_is_an_ordinary_failure(sdk, serve, run):
    @sdk.agent("t", timeout=5, retry=ONCE)
    async def work():
        raise TimeoutError("theirs")

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.type, error.message, error.reason) == ("TimeoutError", "theirs", "max_attempts")

    run(main())
