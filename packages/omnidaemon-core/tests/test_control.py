"""Pause and delete, for running workers too (design C1-C4, M8)."""

import asyncio
import logging

import pytest

from omnidaemon import (
    AgentConfig,
    Context,
    Deletion,
    InvalidName,
    NonRetryable,
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
