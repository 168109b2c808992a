"""Starting and stopping (api.md §2, design L1-L4)."""

import asyncio
import logging
import os
import signal
import threading
import time
from datetime import timedelta

import pytest

from omnidaemon import (
    AgentConfig,
    Context,
    RetryPolicy,
    TaskFailed,
)
from omnidaemon.runtime import worker


async def echo(message):
    return message["content"]


def test_start_stop_start_works_and_both_may_be_called_twice(sdk, run):
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def main():
        await sdk.stop()
        await sdk.shutdown()
        for number in range(3):
            await sdk.start()
            await sdk.start()
            assert sdk.running
            assert await (await sdk.publish("t", number)).result(timeout=1) == number
            await sdk.stop()
            await sdk.stop()
            assert not sdk.running
            late = await sdk.publish("t", "late")  # stop() keeps the connections
            assert await sdk.get_task(late.id) is None
            await sdk.start()
            assert await late.result(timeout=1) == "late"
            await sdk.shutdown()
            await sdk.shutdown()

    run(main())


def test_starting_again_in_another_loop(sdk):
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def main(number):
        await sdk.start()
        assert await (await sdk.publish("t", number)).result(timeout=1) == number
        waiting = asyncio.create_task(sdk.wait_stopped())
        await asyncio.sleep(0)
        await sdk.shutdown()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(main(1))
    asyncio.run(main(2))


def test_a_worker_whose_loop_is_gone_does_not_keep_the_next_one_from_starting(sdk, caplog, monkeypatch):
    monkeypatch.setattr(worker, "UNWIND", 0.1)
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def forgetful():
        await sdk.start()
        return (await sdk.publish("t", 1)).id

    async def careful(event_id):
        await sdk.start()
        assert await sdk.task(event_id).result(timeout=2) == 1
        assert await (await sdk.publish("t", 2)).result(timeout=2) == 2
        await sdk.shutdown()

    asyncio.run(careful(asyncio.run(forgetful())))
    assert "event loop of its agents was closed" in caplog.text
    assert [thread.name for thread in threading.enumerate() if thread.name == "omnidaemon-io"] == []


def test_wait_stopped(sdk, run):
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def main():
        await asyncio.wait_for(sdk.wait_stopped(), 1)
        await sdk.start()
        waiting = asyncio.create_task(sdk.wait_stopped())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await sdk.stop()
        await asyncio.wait_for(waiting, 1)
        await sdk.shutdown()

    run(main())


def test_nothing_outlives_shutdown(sdk):
    sdk.add_agent(AgentConfig(topic="t", callback=echo))
    before = set(threading.enumerate())

    async def main():
        await sdk.start()
        await (await sdk.publish("t", 1)).result(timeout=1)
        await sdk.shutdown()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert {thread for thread in threading.enumerate() if thread.name.startswith("omnidaemon")} <= before


def test_stop_finishes_what_runs_and_hands_back_what_does_not_end(sdk, run, eventually):
    ended = []

    @sdk.agent("short")
    async def short(message):
        await asyncio.sleep(0.05)
        ended.append(message["content"])

    @sdk.agent("long")
    async def long(ctx: Context):
        try:
            await asyncio.sleep(30 if len(ended) < 2 else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return ctx.attempt

    async def main():
        await sdk.start()
        quick = await sdk.publish("short", "done")
        slow = await sdk.publish("long")
        for event in (slow, quick):
            await eventually(event.task().info)
        began = time.monotonic()
        await sdk.stop(grace=0.15)
        assert time.monotonic() - began < 1
        assert ended == ["done", "cancelled"]
        assert (await sdk.get_task(quick.id))["state"] == "completed"
        record = await sdk.get_task(slow.id)
        assert (record["state"], record["attempt"], record["history"]) == ("submitted", 1, [])
        await sdk.start()
        assert await slow.result(timeout=1) == 1  # given back, not counted
        await sdk.shutdown()

    run(main())


def test_grace_may_be_a_timedelta(sdk, run, eventually):
    @sdk.agent("t")
    async def work():
        await asyncio.sleep(30)

    async def main():
        for stop in (sdk.stop, sdk.shutdown):
            await sdk.start()
            event = await sdk.publish("t")
            await eventually(event.task().info)
            await stop(grace=timedelta(milliseconds=10))
        await sdk.shutdown(timedelta(0))

    run(main())


def test_close_names_a_thread_that_cannot_be_stopped(sdk, run, caplog):
    release, seen = threading.Event(), []

    @sdk.agent("t", timeout=0.05, max_concurrency=1, retry=RetryPolicy(max_attempts=1))
    def stuck(ctx: Context, message):
        if message["content"] == "stuck":
            release.wait(5)
            seen.append(ctx.cancelled.is_set())
        return "fine"

    async def main():
        await sdk.start()
        event = await sdk.publish("t", "stuck")
        with pytest.raises(TaskFailed, match=r"TimeoutError: the attempt took longer than timeout=0.05 s") as caught:
            await event.result(timeout=2)
        assert caught.value.reason == "timeout"
        waiting = await sdk.publish("t", "next")
        await asyncio.sleep(0.1)
        assert await sdk.get_task(waiting.id) is None  # its slot stays taken
        await sdk.stop(grace=0.1)
        assert f"agent stuck still runs event {event.id} in a thread that cannot be stopped" in caplog.text
        release.set()
        await sdk.start()
        assert await waiting.result(timeout=1) == "fine"
        await sdk.shutdown()
        assert seen == [True]
        assert (await sdk.get_task(event.id))["state"] == "failed"
        await sdk.shutdown()

    run(main())


def test_threads_of_steps_are_treated_like_those_of_agents(sdk, run, caplog):
    release = [threading.Event(), threading.Event()]

    @sdk.agent("t", timeout=0.05, max_concurrency=1, retry=RetryPolicy(max_attempts=1))
    async def work(ctx: Context, message):
        if message["content"] == "stuck":
            await asyncio.gather(*(ctx.step(f"wait {n}", release[n].wait, 5) for n in range(2)))
        return "fine"

    async def main():
        await sdk.start()
        event = await sdk.publish("t", "stuck")
        with pytest.raises(TaskFailed):
            await event.result(timeout=2)
        waiting = await sdk.publish("t", "next")
        release[0].set()
        await asyncio.sleep(0.05)
        assert await sdk.get_task(waiting.id) is None  # the other one has not returned
        await sdk.stop(grace=0.05)
        assert f"agent work still runs event {event.id} in a thread that cannot be stopped" in caplog.text
        await sdk.start()
        assert await waiting.result(timeout=1) == "fine"
        await sdk.shutdown()

    began = time.monotonic()
    run(main())
    assert time.monotonic() - began < 2  # nobody waited for the thread
    release[1].set()


def test_a_slot_is_free_again_when_the_thread_returns(sdk, serve, run):
    release = threading.Event()

    @sdk.agent("t", timeout=0.05, max_concurrency=1, retry=RetryPolicy(max_attempts=1))
    def stuck(message):
        if message["content"] == "stuck":
            release.wait(5)
        return "fine"

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", "stuck")
            with pytest.raises(TaskFailed):
                await event.result(timeout=2)
            waiting = await sdk.publish("t", "next")
            await asyncio.sleep(0.05)
            assert await sdk.get_task(waiting.id) is None
            release.set()
            assert await waiting.result(timeout=1) == "fine"

    run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_with_a_signal_and_drains(sdk, number):
    ended = []

    @sdk.agent("t")
    async def work():
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        ended.append(1)

    asyncio.run(_published(sdk))
    sdk.run()
    assert ended == [1]
    assert not sdk.running


async def _published(sdk):
    await sdk.publish("t", 1)
    await sdk.shutdown()


def test_quiet_by_default_and_one_line_for_each_failure_when_asked(sdk, serve, run, caplog, capfd):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.01, jitter="none"))
    async def work():
        raise ValueError("why")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed):
                await event.result(timeout=2)
            return event.id

    event_id = run(main())
    failures = [record for record in caplog.records if record.name == "omnidaemon.worker"]
    messages = [record.getMessage() for record in failures if record.levelno >= logging.WARNING]
    assert messages == [
        f"agent work, event {event_id}: attempt 1/2 failed: ValueError: why; next try in 0.0 s",
        f"agent work, event {event_id}: given up after attempt 2 (max_attempts)",
    ]
    assert failures[-1].exc_info is not None or any(record.exc_info for record in failures)
    assert capfd.readouterr() == ("", "")
