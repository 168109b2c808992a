"""Small values, and clearing that stops nobody (surface.md §1.2, design S5)."""

import asyncio

import pytest

from omnidaemon import (
    NonRetryable,
    RetryPolicy,
    TaskFailed,
)

ONCE = RetryPolicy(max_attempts=1)


async def echo(message):
    """Give back what came."""
    return message["content"]


async def picky(message):
    if message["content"] == "bad":
        raise NonRetryable("no")
    return message["content"]


def test_small_values_are_kept(sdk, run):
    async def main():
        async with sdk:
            assert await sdk.get_config("k") is None
            assert await sdk.get_config(key="k", default=5) == 5
            for value in ({"a": [1, None]}, None, "text", 1e22):
                await sdk.save_config(key="k", value=value)
                assert await sdk.get_config("k", default="none") == value

    run(main())


def test_clearing_stops_nobody_and_forgets_no_done_mark(make_sdk, serve, run):
    sdk, gone = make_sdk(), make_sdk()
    sdk.agent("t", retry=ONCE)(picky)
    gone.agent("old")(echo)

    async def main():
        async with serve(gone):
            pass
        async with serve(sdk):
            await sdk.pause_agent("old", "echo")
            event = await sdk.publish("t", 1)
            await event.result(timeout=1)
            bad = await sdk.publish("t", "bad")
            with pytest.raises(TaskFailed):
                await bad.result(timeout=1)
            await sdk.save_config("a", 1)
            await sdk.save_config("b", 1)
            assert await sdk.clear_results() == 1
            assert await sdk.get_result(event.id) is None
            assert len(await sdk.dead_letters()) == 1
            # The agent that nobody serves is forgotten, the other one goes on.
            assert await sdk.clear_agents() == 1
            assert list(await sdk.list_agents()) == ["t"]
            await sdk.publish("t", 2, id=event.id)
            await (await sdk.publish("t", 3)).result(timeout=1)
            cleared = await sdk.clear_all()
            assert cleared.keys() == {"agents", "results", "metrics", "config"}
            assert (cleared["agents"], cleared["results"], cleared["config"]) == (0, 1, 2)
            assert cleared["metrics"] >= 1
            assert await sdk.get_config("a") is None
            await asyncio.sleep(0.05)
            assert await (await sdk.publish("t", 4)).result(timeout=1) == 4
            assert (await sdk.metrics())["t"]["picky"]["tasks_processed"] == 1

    run(main())


def test_a_result_is_deleted_and_a_running_task_is_not(sdk, serve, run, eventually):
    release = asyncio.Event()

    @sdk.agent("t")
    async def work():
        await release.wait()

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await eventually(event.task().info)
            assert await sdk.delete_result(event.id) is False
            release.set()
            await event.result(timeout=1)
            assert await sdk.delete_result(task_id=event.id) is True
            assert await sdk.delete_result(event.id) is False
            assert await sdk.delete_result("nothing") is False
            assert await sdk.get_task(event.id) is None

    run(main())
