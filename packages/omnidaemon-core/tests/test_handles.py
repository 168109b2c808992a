"""Handles: what waiting for an event or a task gives (api.md §3)."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest
from pydantic import BaseModel

from omnidaemon import (
    AmbiguousTask,
    NonRetryable,
    ResultTimeout,
    RetryPolicy,
    TaskFailed,
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


def test_timeouts_may_be_timedeltas(sdk, run):
    async def main():
        async with sdk:
            event = await sdk.publish("t", 1)
            with pytest.raises(ResultTimeout, match=r"within 0.01 s"):
                await event.result(timeout=timedelta(milliseconds=10))
            with pytest.raises(ResultTimeout, match=r"after 0.01 s"):
                await event.results(timeout=timedelta(milliseconds=10))

    run(main())
