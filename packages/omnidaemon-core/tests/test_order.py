"""Order and concurrency: slots, keys, sessions, and runs that would await themselves (D2, D12, R5)."""

import asyncio
import collections
import time

import pytest

from omnidaemon import (
    AmbiguousTask,
    Context,
    NonRetryable,
    ResultTimeout,
    RetryPolicy,
    TaskError,
    TaskFailed,
)
from omnidaemon.runtime import intake

ONCE = RetryPolicy(max_attempts=1)


class Overlap:
    """Notes what ran when, and how much at a time."""

    def __init__(self):
        self.order, self.now, self.most = [], collections.Counter(), collections.Counter()

    async def visit(self, lane, content):
        self.now[lane] += 1
        self.most[lane] = max(self.most[lane], self.now[lane])
        try:
            await asyncio.sleep(0.002)
            self.order.append((lane, content))
        finally:
            self.now[lane] -= 1


@pytest.fixture
def overlap():
    return Overlap()


@pytest.mark.parametrize("limit", [1, 3])
def test_at_most_max_concurrency_runs_of_an_agent(sdk, serve, run, overlap, limit):
    @sdk.agent("t", max_concurrency=limit)
    async def work(message):
        await overlap.visit("all", message["content"])

    async def main():
        async with serve(sdk):
            events = await sdk.publish_many([("t", number) for number in range(12)])
            for event in events:
                await event.result(timeout=2)
        assert overlap.most["all"] == limit

    run(main())


@pytest.mark.parametrize("field", ["key", "session_id"])
def test_events_of_a_lane_run_one_at_a_time_in_order_and_lanes_side_by_side(sdk, serve, run, overlap, field):
    @sdk.agent("t")
    async def work(message):
        lane = message[field]
        if message["content"] == 2 and message["delivery_attempts"] == 1:
            raise OSError  # a retry keeps its place
        await overlap.visit(lane, message["content"])

    async def main():
        sdk.agent("t", name="work", retry=RetryPolicy(initial=0.01, jitter="none"))(work)
        async with sdk:
            events = await sdk.publish_many([("t", n, {field: lane}) for n in range(5) for lane in "abc"])
        async with serve(sdk):
            for event in events:
                await event.result(timeout=3)
        for lane in "abc":
            assert [content for name, content in overlap.order if name == lane] == [0, 1, 2, 3, 4]
            assert overlap.most[lane] == 1

    run(main())


def test_a_dead_letter_lets_the_next_of_its_key_go(sdk, serve, run):
    seen = []

    @sdk.agent("t")
    async def work(message):
        seen.append(message["content"])
        if message["content"] == 0:
            raise NonRetryable

    async def main():
        async with serve(sdk):
            first, second = await sdk.publish_many([("t", n, {"key": "k"}) for n in range(2)])
            with pytest.raises(TaskFailed):
                await first.result(timeout=1)
            await second.result(timeout=1)
        assert seen == [0, 1]

    run(main())


def test_an_event_with_session_and_key_takes_the_sessions_lane(sdk, serve, run, overlap):
    @sdk.agent("t")
    async def work(message):
        await overlap.visit(message["session_id"], message["content"])

    async def main():
        async with serve(sdk):
            events = await sdk.publish_many([("t", n, {"session_id": "s", "key": f"k{n}"}) for n in range(5)])
            for event in events:
                await event.result(timeout=2)
        assert overlap.order == [("s", n) for n in range(5)]
        assert overlap.most["s"] == 1

    run(main())


async def through_another_task(event):
    await asyncio.gather(event.result())


async def through_progress(event):
    return [entry async for entry in event.task().progress()]


WAYS = {
    "the event": lambda _, event: event.result(timeout=5),
    "one agent": lambda _, event: event.result(agent="work", timeout=5),
    "its task": lambda _, event: event.task("work").result(),
    "all results": lambda _, event: event.results(),
    "its progress": lambda _, event: through_progress(event),
    "a task id": lambda sdk, event: sdk.task(f"{event.id}:work").result(timeout=5),
    "another task": lambda _, event: through_another_task(event),
}


@pytest.mark.parametrize("fields", [{"key": "k"}, {"session_id": "s"}])
@pytest.mark.parametrize("how", WAYS)
def test_a_run_that_awaits_a_task_of_its_own_lane_is_refused_at_once(sdk, serve, run, fields, how):
    caught = []

    @sdk.agent("t", retry=ONCE)
    async def work(message):
        if message["content"] != "outer":
            return "inner"
        event = await sdk.publish("t", "inner", **fields)
        try:
            await WAYS[how](sdk, event)
        except TaskError as error:
            caught.append(str(error))
        return event.id

    async def main():
        async with serve(sdk):
            began = asyncio.get_running_loop().time()
            inner = await (await sdk.publish("t", "outer", **fields)).result(timeout=3)
            assert await sdk.task(f"{inner}:work").result(timeout=1) == "inner"
            assert asyncio.get_running_loop().time() - began < 1.5
            lane = next(iter(fields.items()))
            assert f"task {inner}" in caught[0]
            assert f"{lane[0]}={lane[1]!r}" in caught[0]
            assert "it can only start when this run has ended" in caught[0]

    run(main())


def test_what_is_not_of_the_own_lane_may_be_awaited(sdk, serve, run):
    @sdk.agent("t")
    async def work(message):
        if message["content"] != "outer":
            return "inner"
        events = [await sdk.publish("t", "inner", **fields) for fields in ({"key": "other"}, {"session_id": "k"}, {})]
        events.append(await sdk.publish("u", "x", key="k"))
        return [await event.result(timeout=2) for event in events]

    @sdk.agent("u", name="work")
    async def other():
        return "other topic"

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", "outer", key="k")
            assert await event.result(timeout=3) == ["inner", "inner", "inner", "other topic"]

    run(main())


def test_another_agents_lane_of_the_same_key_may_be_awaited(sdk, serve, run):
    @sdk.agent("t")
    async def outer(message):
        if message["content"] != "outer":
            return None
        event = await sdk.publish("t", "inner", key="k")
        with pytest.raises(AmbiguousTask):
            await event.result(timeout=1)
        with pytest.raises(TaskError, match="can only start when this run has ended"):
            await event.results(timeout=1)
        return await event.result(agent="other", timeout=2)

    @sdk.agent("t")
    async def other(message):
        return message["content"]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", "outer", key="k")
            assert await event.result(agent="outer", timeout=3) == "inner"

    run(main())


def test_an_earlier_task_of_the_own_lane_that_has_ended_may_be_asked_for(sdk, serve, run):
    @sdk.agent("t")
    async def work(message):
        if message["content"] is None:
            return "first"
        return await sdk.task(f"{message['content']}:work").result(timeout=1)

    async def main():
        async with serve(sdk):
            first = await sdk.publish("t", None, key="k")
            await first.result(timeout=1)
            second = await sdk.publish("t", first.id, key="k")
            assert await second.result(timeout=1) == "first"

    run(main())


def test_a_run_that_awaits_itself_or_what_it_is_going_to_publish_is_refused(sdk, serve, run):
    caught = []

    @sdk.agent("t", retry=ONCE)
    async def work(ctx: Context):
        planned = await ctx.publish("u", 1)
        for event_id in (ctx.event.id, planned):
            try:
                await sdk.task(event_id).result()
            except TaskError as error:
                caught.append(str(error))

    @sdk.agent("u")
    async def next_one():
        return 1

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await event.result(timeout=2)
            assert "is the run that awaits it" in caught[0]
            assert "is sent when this run has ended" in caught[1]

    run(main())


def test_outside_of_a_run_everything_may_be_awaited(sdk, serve, run):
    @sdk.agent("t")
    async def work():
        await asyncio.sleep(0.01)

    async def main():
        async with serve(sdk):
            events = await sdk.publish_many([("t", 1, {"key": "k"}) for _ in range(3)])
            await asyncio.gather(*(event.result(timeout=2) for event in events))
            with pytest.raises(ResultTimeout):
                await (await sdk.publish("t", 1, key="k")).result(timeout=0)

    run(main())


def test_a_lane_does_not_wait_for_the_next_look_at_the_inbox(sdk, serve, run, monkeypatch):
    monkeypatch.setattr(intake, "DUE_INTERVAL", 0.5)

    @sdk.agent("t")
    async def work():
        return None

    async def main():
        async with serve(sdk):
            events = await sdk.publish_many([("t", 1, {"key": "k"}) for _ in range(10)])
            began = time.monotonic()
            await asyncio.gather(*(event.result(timeout=5) for event in events))
            assert time.monotonic() - began < 0.9

    run(main())
