"""Where groups begin, history replay and skipping (design P2, H1-H3, M8)."""

import asyncio
import logging
import time
from datetime import UTC, datetime

import pytest

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    InvalidEvent,
    OmniDaemonError,
    SubscriptionConfig,
)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def register(seen):
    """Declare an agent that notes the content of what it gets."""

    def register_(name="work", topic="t", **options):
        async def work(message):
            seen.append((name, message["content"]))

        return AgentConfig(topic=topic, name=name, callback=work, config=SubscriptionConfig(**options))

    return register_


def of(seen, name="work"):
    return [content for agent, content in seen if agent == name]


def test_a_new_group_begins_at_the_beginning_with_one_warning(sdk, serve, run, register, seen, caplog):
    sdk.add_agent(register())

    async def main():
        async with sdk:
            for number in range(3):
                event = await sdk.publish("t", number)
        async with serve(sdk):
            await event.result(timeout=1)
        assert of(seen) == [0, 1, 2]
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == [
            "agent work is new on t and begins with its 3 retained events; give start_from='now' to skip them"
        ]
        caplog.clear()
        async with serve(sdk):
            await (await sdk.publish("t", 3)).result(timeout=1)
        assert [record for record in caplog.records if record.levelno == logging.WARNING] == []

    run(main())


def test_start_from(sdk, serve, run, register, seen):
    async def main():
        async with sdk:
            await sdk.publish("t", 0)
            await asyncio.sleep(0.01)
            middle = datetime.now(UTC)
            await sdk.publish("t", 1)
            await sdk.publish("t", 2)
            position = (await sdk.inspect_topic("t"))[0]["id"]
        for name, start in (("now", "now"), ("time", middle), ("position", position), ("beginning", "beginning")):
            sdk.add_agent(register(name, start_from=start))
        async with serve(sdk):
            await (await sdk.publish("t", 3)).results(timeout=1)
        assert of(seen, "now") == [3]
        assert of(seen, "time") == [1, 2, 3]
        assert of(seen, "position") == [2, 3]
        assert of(seen, "beginning") == [0, 1, 2, 3]
        # It is for new groups only: a group that is there keeps its position.
        sdk.add_agent(register("now", start_from="beginning"))
        async with serve(sdk):
            await (await sdk.publish("t", 4)).results(timeout=1)
        assert of(seen, "now") == [3, 4]
        sdk.add_agent(register("wrong", start_from="no position"))
        with pytest.raises(ConfigurationError, match="'no position' is no position of the memory bus"):
            await sdk.start()
        await sdk.shutdown()

    run(main())


def test_history_replay_is_for_one_agent_and_moves_no_cursor(sdk, serve, run, register, seen, eventually):
    sdk.add_agent(register())
    sdk.add_agent(register("other"))

    async def main():
        async with serve(sdk):
            events = [await sdk.publish("t", number) for number in range(4)]
            for event in events:
                await event.results(timeout=1)
            stats = await sdk.topic_stats("t")
            positions = [entry["id"] for entry in reversed(await sdk.inspect_topic("t"))]
            done = await sdk.replay("t", "work", start=positions[1], end=positions[2])
            assert (done.replayed, done.busy, done.position) == (2, 0, positions[2])
            await eventually(lambda: of(seen) == [0, 1, 2, 3, 1, 2])
            assert of(seen, "other") == [0, 1, 2, 3]
            after = await sdk.topic_stats("t")
            assert [group["last_delivered_id"] for group in after["groups"]] == [
                group["last_delivered_id"] for group in stats["groups"]
            ]
            record = await events[1].task("work").info()
            assert record["generation"] > 0
            # The same job goes on behind its position, and does nothing twice.
            again = await sdk.replay("t", "work", start=positions[1], end=positions[3], job=done.job)
            assert (again.job, again.replayed) == (done.job, 3)
            await eventually(lambda: of(seen) == [0, 1, 2, 3, 1, 2, 3])

            async def idle():
                return not (await sdk.list_tasks(state=["submitted", "working"]))["tasks"]

            await eventually(idle)
            whole = await sdk.replay("t", "work")
            assert whole.replayed == 4

    run(main())


def test_history_replay_at_a_rate_that_can_be_cancelled_and_resumed(sdk, serve, run, register, seen, eventually):
    sdk.add_agent(register())

    async def main():
        async with serve(sdk):
            for number in range(5):
                await (await sdk.publish("t", number)).result(timeout=1)
            began = time.monotonic()
            await sdk.replay("t", "work", rate=100, end=datetime.now(UTC))
            assert time.monotonic() - began > 0.04
            await eventually(lambda: len(seen) == 10)
            job = asyncio.create_task(sdk.replay("t", "work", rate=10, job="mine"))
            await eventually(lambda: len(seen) == 11)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            resumed = await sdk.replay("t", "work", job="mine")
            assert resumed.replayed == 5
            await eventually(lambda: sorted(of(seen)) == sorted(list(range(5)) * 3))
            for rate in (0, -1, float("nan")):
                with pytest.raises(InvalidEvent, match=f"rate={rate} must be more than 0"):
                    await sdk.replay("t", "work", rate=rate)

    run(main())


def test_history_replay_leaves_alone_what_is_still_at_work(sdk, serve, run):
    @sdk.agent("t")
    async def work():
        await asyncio.sleep(30)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            while (await event.task().info()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            done = await sdk.replay("t", "work")
            assert (done.replayed, done.busy) == (0, 1)

    run(main())


def test_skipping_forward_rejects_what_is_skipped(sdk, serve, run, register, seen):
    sdk.add_agent(register())

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t", 0)).result(timeout=1)
        async with sdk:
            skipped = [await sdk.publish("t", number) for number in (1, 2)]
            assert await sdk.skip("t", "work") == 2
            assert await sdk.skip("t", "work") == 0
            record = await sdk.get_task(skipped[0].id)
            assert (record["state"], record["rejected"], record["content"]) == ("rejected", "skipped", 1)
            assert (await sdk.metrics())["t"]["work"]["rejected"] == 2
        async with serve(sdk):
            await (await sdk.publish("t", 3)).result(timeout=1)
        assert of(seen) == [0, 3]

    run(main())


def test_the_position_must_be_one(sdk, run):
    async def main():
        sdk.add_agent(AgentConfig(topic="t", callback=print, name="work"))
        async with sdk:
            await sdk.start()
            for call in (
                sdk.replay("t", "work", start="x"),
                sdk.replay("t", "work", end="x"),
                sdk.skip("t", "work", end="x"),
            ):
                with pytest.raises(OmniDaemonError, match="'x' is no position of the memory bus"):
                    await call

    run(main())
