"""Pause, delete, replay, and where groups begin (design C1-C4, H1-H3, M8, P2)."""

import asyncio
import logging
import time
from datetime import UTC, datetime

import pytest

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    Context,
    Deletion,
    InvalidEvent,
    InvalidName,
    NonRetryable,
    OmniDaemonError,
    RetryPolicy,
    SubscriptionConfig,
    TaskFailed,
    TaskNotFound,
)

ONCE = RetryPolicy(max_attempts=1)


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


def test_a_pause_holds_for_all_workers_keeps_the_position_and_outlives_restarts(
    make_sdk, serve, run, register, seen, eventually
):
    one, two, outside = make_sdk(), make_sdk(), make_sdk()
    for sdk in (one, two):
        sdk.add_agent(register())
        sdk.add_agent(register("other"))

    async def main():
        async with serve(one, two), outside:
            await (await outside.publish("t", 0)).results(timeout=1)
            assert await outside.pause_agent(topic="t", agent_name="work") is True
            await asyncio.sleep(0.1)
            event = await outside.publish("t", 1)
            assert await event.result(agent="other", timeout=1) is None
            await asyncio.sleep(0.05)
            assert of(seen) == [0]
            assert (await outside.get_agent("t", "work"))["state"] == "paused"
            assert (await outside.get_agent("t", "other"))["state"] == "active"
        async with serve(one):
            await asyncio.sleep(0.05)
            assert of(seen) == [0]
            assert await outside.resume_agent(topic="t", agent_name="work") is True
            await eventually(lambda: of(seen) == [0, 1])
            assert of(seen, "other") == [0, 1]
            assert (await outside.get_agent("t", "work"))["state"] == "active"
            assert await outside.unsubscribe_agent(topic="t", agent_name="work") is True
            assert (await outside.get_agent("t", "work"))["state"] == "paused"
            await outside.shutdown()

    run(main())


def test_a_pause_lets_running_work_finish_and_holds_retries(sdk, serve, run, eventually):
    runs = []

    @sdk.agent("t", retry=RetryPolicy(initial=0.001))
    async def work():
        runs.append(1)
        await asyncio.sleep(0.1)
        if len(runs) == 1:
            raise OSError

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await eventually(lambda: runs)
            await sdk.pause_agent("t", "work")

            async def waits():
                return (await event.task().info())["state"] == "submitted"

            await eventually(waits)
            await asyncio.sleep(0.1)
            assert len(runs) == 1
            await sdk.resume_agent("t", "work")
            await event.result(timeout=2)
            assert len(runs) == 2

    run(main())


def test_control_of_what_is_not_there(sdk, run):
    async def main():
        async with sdk:
            assert await sdk.pause_agent("t", "nobody") is False
            assert await sdk.resume_agent("t", "nobody") is False
            assert await sdk.unsubscribe_agent("t", "nobody") is False
            assert not await sdk.delete_agent("t", "nobody")
            assert not await sdk.delete_agent("t", "nobody", delete_group=True, delete_dlq=True)
            assert not await sdk.delete_topic("t")
            assert await sdk.get_agent("t", "nobody") is None
            assert await sdk.list_agents() == {}
            for call in (sdk.replay, sdk.skip):
                with pytest.raises(TaskNotFound, match="agent nobody is not registered on t"):
                    await call("t", "nobody")
            for call in (sdk.pause_agent, sdk.resume_agent, sdk.replay, sdk.skip):
                with pytest.raises(InvalidName, match="invalid topic 'a b'"):
                    await call("a b", "nobody")
            with pytest.raises(InvalidName, match="invalid topic"):
                await sdk.delete_topic("a b")

    run(main())


def test_deleting_an_agent_stops_running_workers_and_keeps_its_group(
    sdk, serve, run, register, seen, eventually, caplog
):
    sdk.add_agent(register())
    sdk.add_agent(register("other"))

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t", 0)).results(timeout=1)
            gone = await sdk.delete_agent(topic="t", agent_name="work")
            assert gone == Deletion(agents=1)
            await eventually(lambda: "agent work on t was deleted; this worker stops serving it" in caplog.text)
            event = await sdk.publish("t", 1)
            await event.result(agent="other", timeout=1)
            assert of(seen) == [0]
            assert set((await sdk.list_agents())["t"][0]) >= {"name", "tools", "description", "callback", "config"}
            assert [agent["name"] for agent in (await sdk.list_agents())["t"]] == ["other"]
            assert not await sdk.delete_agent(topic="t", agent_name="work")
        # Registered again it goes on where its group is: nothing is lost, nothing is skipped.
        caplog.clear()
        async with serve(sdk):
            await eventually(lambda: of(seen) == [0, 1])
            assert "was deleted before" not in caplog.text

    run(main())


def test_after_a_deletion_with_its_group_an_agent_begins_with_new_events_and_a_warning(
    sdk, serve, run, register, seen, caplog
):
    sdk.add_agent(register())

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t", 0)).result(timeout=1)
        async with sdk:
            gone = await sdk.delete_agent("t", "work", delete_group=True)
            assert gone == Deletion(agents=1, groups=1)
            assert (await sdk.topic_stats("t"))["groups"] == []
            await sdk.publish("t", 1)
        caplog.clear()
        async with serve(sdk):
            await (await sdk.publish("t", 2)).result(timeout=1)
            assert of(seen) == [0, 2]
            (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert record.getMessage() == (
                "agent work on t was deleted before: it begins with new events only; give start_from= to say otherwise"
            )
        async with sdk:
            await sdk.delete_agent("t", "work", delete_group=True)
        sdk.add_agent(register(start_from="beginning"))
        caplog.clear()
        async with serve(sdk):
            await (await sdk.publish("t", 3)).result(timeout=1)
            assert of(seen) == [0, 2, 0, 1, 2, 3]
            assert "was deleted before" not in caplog.text

    run(main())


def test_deleting_the_group_counts_what_goes_with_it(sdk, serve, run, eventually):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=100, jitter="none"))
    async def work(message, ctx: Context):
        if message["content"] == "dead":
            raise NonRetryable
        if message["content"] == "follow":
            await ctx.publish("later", 1, delay=100)
            return
        raise OSError

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t", "follow")).result(timeout=1)
            dead = await sdk.publish("t", "dead")
            with pytest.raises(TaskFailed):
                await dead.result(timeout=1)
            for _ in range(3):
                await sdk.publish("t", "retry")

            async def waiting():
                return (await sdk.topic_stats("t"))["groups"][0]["inbox"] == 3

            await eventually(waiting)
            gone = await sdk.delete_agent("t", "work", delete_group=True, delete_dlq=True)
            assert gone == Deletion(agents=1, groups=1, inbox=3, outbox=1, dead_letters=1)
            assert await sdk.dead_letters() == []
            assert (await sdk.list_tasks(state="submitted"))["tasks"] == []

    run(main())


def test_the_group_of_an_agent_that_is_deleted_already_can_still_be_deleted(sdk, serve, run):
    @sdk.agent("t", retry=ONCE)
    async def work():
        raise OSError

    async def main():
        async with serve(sdk):
            with pytest.raises(TaskFailed):
                await (await sdk.publish("t")).result(timeout=1)
        async with sdk:
            assert await sdk.delete_agent("t", "work")
            assert len((await sdk.topic_stats("t"))["groups"]) == 1
            gone = await sdk.delete_agent("t", "work", delete_group=True, delete_dlq=True)
            assert gone == Deletion(groups=1, dead_letters=1)
            assert (await sdk.topic_stats("t"))["groups"] == []

    run(main())


def test_deleting_a_topic_says_what_went(sdk, serve, run, register):
    sdk.add_agent(register())
    sdk.add_agent(register("other"))
    sdk.add_agent(register("gone"))
    sdk.add_agent(register("elsewhere", topic="t2"))

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t", 0)).results(timeout=1)
            await sdk.publish("t2", 0)
            await sdk.delete_agent("t", "gone")
            gone = await sdk.delete_topic(topic="t")
            assert gone == Deletion(agents=2, groups=3, events=1)
            assert [entry["topic"] for entry in await sdk.list_topics()] == ["t2"]
            assert list(await sdk.list_agents()) == ["t2"]
            assert (await sdk.topic_stats("t"))["groups"] == []
            assert not await sdk.delete_topic("t")

    run(main())


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
