# ruff: noqa: ARG001 - agents take what agents take
"""TestRuntime, as users' own tests use it."""

import asyncio
import time

import pytest

from omnidaemon import (
    Context,
    OmniDaemonSDK,
    ResultTimeout,
    RetryAfter,
    RetryPolicy,
    TaskFailed,
)
from omnidaemon_testing import TestRuntime


@pytest.fixture
def sdk():
    # Resolving it would fail: the runtime must never ask for it.
    return OmniDaemonSDK(event_bus="no.such.bus", store="no.such.store", result_ttl=3600)


def run(work):
    asyncio.run(asyncio.wait_for(work, 20))


class Boom(Exception):
    pass


def test_it_runs_the_agents_and_leaves_the_sdk_as_it_was(sdk):
    @sdk.agent("news")
    async def read(message):
        return message["content"]

    @sdk.agent("news")
    def in_a_thread(message):
        return message["content"] * 2

    async def main():
        kept = vars(sdk).keys() - {"_plugged", "_stopped"}
        before = {name: vars(sdk)[name] for name in kept}
        async with TestRuntime(sdk) as runtime:
            event = await sdk.publish("news", 21)
            await runtime.until_idle()
            results = await event.results(timeout=1)
            assert {name: outcome.value for name, outcome in results.items()} == {"read": 21, "in_a_thread": 42}
            assert sdk.settings.result_ttl == 3600
        assert {name: vars(sdk)[name] for name in kept} == before
        assert vars(sdk).keys() - kept == {"_plugged", "_stopped"}
        assert not sdk.running

    run(main())


def test_two_blocks_share_nothing(sdk):
    @sdk.agent("news")
    async def read(message):
        return None

    async def main():
        for _ in range(2):
            async with TestRuntime(sdk) as runtime:
                await sdk.publish("news", 1)
                await runtime.until_idle()
                assert len(await runtime.published("news")) == 1
                assert len((await sdk.list_tasks())["tasks"]) == 1

    run(main())


def test_time_passes_only_when_told(sdk):
    attempts = []

    @sdk.agent("news", retry=RetryPolicy(max_attempts=3, initial=60, factor=2, jitter="none"))
    async def flaky(message, ctx: Context):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise Boom("again")
        return "done"

    async def main():
        began = time.monotonic()
        async with TestRuntime(sdk) as runtime:
            event = await sdk.publish("news", 1)
            await runtime.until_idle()
            assert attempts == [1]
            await runtime.advance(59)
            assert attempts == [1]
            await runtime.advance(1)
            assert attempts == [1, 2]
            await runtime.advance(119.9)
            assert attempts == [1, 2]
            await runtime.advance(0.1)
            assert await event.result(timeout=1) == "done"
        assert time.monotonic() - began < 5

    run(main())


def test_retry_after_delays_and_expiry_follow_the_clock(sdk):
    busy = [True]

    @sdk.agent("news")
    async def read(message, ctx: Context):
        if busy[0]:
            busy[0] = False
            raise RetryAfter(30)
        return message["content"]

    async def main():
        async with TestRuntime(sdk) as runtime:
            first = await sdk.publish("news", "busy")
            await runtime.until_idle()
            await runtime.advance(29)
            assert (await first.task().info())["state"] == "submitted"
            await runtime.advance(1)
            assert await first.result(timeout=1) == "busy"
            later = await sdk.publish("news", "later", delay=3600)
            await runtime.advance(3599)
            assert await later.task("read").info() is None
            await runtime.advance(1)
            assert await later.result(timeout=1) == "later"
            stale = await sdk.publish("news", "stale", delay=60, expires_at=runtime.clock.time() + 61)
            await runtime.advance(3600)
            assert (await stale.task("read").info())["state"] in ("completed", "rejected")

    run(main())


def test_what_an_agent_awaits_itself_takes_real_time(sdk):
    @sdk.agent("news")
    async def slow(message):
        await asyncio.sleep(0.05)
        return "slept"

    async def main():
        async with TestRuntime(sdk) as runtime:
            event = await sdk.publish("news", 1)
            await runtime.until_idle()
            assert await event.result(timeout=0.01) == "slept"

    run(main())


def test_what_never_ends_is_named(sdk):
    @sdk.agent("news")
    async def stuck(message):
        await asyncio.Event().wait()

    async def main():
        async with TestRuntime(sdk, timeout=0.1) as runtime:
            event = await sdk.publish("news", 1)
            with pytest.raises(AssertionError, match=f"not idle after 0.1 s: {event.id}:stuck is running"):
                await runtime.until_idle()

    run(main())


def test_published_shows_follow_ups_and_replies(sdk):
    @sdk.agent("file.uploaded")
    async def summarise(message, ctx: Context):
        await ctx.publish("file.summarised", {"words": 3})
        return "summary"

    async def main():
        async with TestRuntime(sdk) as runtime:
            await sdk.publish("file.uploaded", {"name": "a"}, reply_to="replies", tenant_id="acme")
            await runtime.until_idle()
            (follow_up,) = await runtime.published("file.summarised")
            assert (follow_up.content, follow_up.tenant_id, follow_up.hops) == ({"words": 3}, "acme", 1)
            assert len(await runtime.published("replies")) == 1
            assert await runtime.published("nothing.here") == []

    run(main())


def test_a_crash_is_survived(sdk):
    starts = []
    gate = asyncio.Event()

    @sdk.agent("news")
    async def read(message, ctx: Context):
        starts.append(ctx.attempt)
        if len(starts) == 1:
            await gate.wait()
        await ctx.publish("follow.up", len(starts))
        return len(starts)

    async def main():
        async with TestRuntime(sdk, timeout=0.2) as runtime:
            event = await sdk.publish("news", 1)
            await runtime.clock.settle()
            assert starts == [1]
            await runtime.crash()
            assert starts == [1]
            await runtime.advance(20)
            assert starts == [1, 1], "a lost start spends no attempt"
            assert await event.result(timeout=1) == 2
            assert [event.content for event in await runtime.published("follow.up")] == [2]

    run(main())


def test_a_redelivery_runs_nothing_again(sdk):
    starts = []

    @sdk.agent("news")
    async def read(message):
        starts.append(message["content"])

    async def main():
        async with TestRuntime(sdk) as runtime:
            event = await sdk.publish("news", 1)
            await runtime.until_idle()
            await runtime.redeliver(event)
            await runtime.advance(60)
            assert starts == [1]
            with pytest.raises(LookupError):
                await runtime.redeliver("unknown")

    run(main())


def test_a_lost_lease_cancels_and_runs_again(sdk):
    ends = []

    @sdk.agent("news")
    async def read(message, ctx: Context):
        try:
            if ends:
                return "second"
            await asyncio.Event().wait()
        finally:
            ends.append(ctx.cancelled.is_set())

    async def main():
        async with TestRuntime(sdk, timeout=0.2) as runtime:
            event = await sdk.publish("news", 1)
            await runtime.clock.settle()
            await runtime.lose_lease(event.task("read"))
            assert ends == [True]
            await runtime.advance(60)
            assert await event.result(timeout=1) == "second"
            with pytest.raises(LookupError):
                await runtime.lose_lease(event.task("read"))

    run(main())


def test_outages_are_survived(sdk):
    starts = []

    @sdk.agent("news")
    async def read(message):
        starts.append(message["content"])
        return message["content"]

    async def main():
        async with TestRuntime(sdk) as runtime:
            first = await sdk.publish("news", "first")
            await runtime.until_idle()
            with runtime.store_down():
                event = await sdk.publish("news", "while the store is down")
                await runtime.advance(30)
                assert starts == ["first"]
            await runtime.advance(30)
            assert await event.result(timeout=1) == "while the store is down"
            with runtime.bus_down(), pytest.raises(Exception, match="not reachable"):
                await sdk.publish("news", "lost")
            await runtime.advance(30)
            assert await first.result(timeout=1) == "first"
            assert starts == ["first", "while the store is down"]

    run(main())


def test_pauses_answers_and_dead_letters(sdk):
    @sdk.agent("news", retry=RetryPolicy(max_attempts=1))
    async def careful(message, ctx: Context):
        if not await ctx.ask("ok", "Really?", timeout=3600):
            raise Boom("no")
        return "sent"

    async def main():
        async with TestRuntime(sdk) as runtime:
            yes, no, late = [await sdk.publish("news", n) for n in range(3)]
            await runtime.until_idle()
            await yes.task("careful").answer("ok", value=True)
            await no.task("careful").answer("ok", value=False)
            await runtime.until_idle()
            assert await yes.result(timeout=1) == "sent"
            with pytest.raises(TaskFailed, match="no"):
                await no.result(timeout=1)
            await runtime.advance(3600)
            with pytest.raises(TaskFailed) as caught:
                await late.result(timeout=1)
            assert caught.value.reason == "unanswered"
            assert await sdk.pause_agent("news", "careful")
            await runtime.advance(1)
            paused = await sdk.publish("news", 9)
            await runtime.until_idle()
            with pytest.raises(ResultTimeout):
                await paused.result(timeout=0.05)
            await sdk.resume_agent("news", "careful")
            await runtime.until_idle()
            assert (await paused.task("careful").info())["state"] == "input_required"
            assert await sdk.replay_dead_letters(topic="news") == 2
            await runtime.until_idle()

    run(main())


def test_a_running_sdk_is_not_taken_over(sdk):
    async def main():
        async with TestRuntime(sdk):
            with pytest.raises(RuntimeError, match="stop"):
                async with TestRuntime(sdk):
                    pass

    run(main())


def test_the_fixture_gives_the_class(runtime):
    assert runtime is TestRuntime
    assert not runtime.__test__


@pytest.mark.anyio
async def test_the_sample_of_the_documentation(sdk, anyio_backend):
    busy = [True]

    @sdk.agent("file.uploaded", timeout=60, retry=RetryPolicy(max_attempts=4))
    async def summarise(message):
        if busy.pop() if busy else False:
            raise RetryAfter(30)

    async with TestRuntime(sdk) as runtime:
        event = await sdk.publish("file.uploaded", {"filename": "busy"})
        await runtime.until_idle()
        await runtime.advance(30)
        assert (await event.results(timeout=1))["summarise"].state == "completed"


@pytest.fixture
def anyio_backend():
    return "asyncio"
