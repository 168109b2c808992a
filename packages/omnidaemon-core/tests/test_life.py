"""Starting, stopping, declaring (api.md §2, design L1-L4)."""

import asyncio
import logging
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from omnidaemon import (
    AccessDenied,
    AgentConfig,
    BackendUnavailable,
    Closed,
    ConfigurationError,
    Context,
    OmniDaemonSDK,
    RetryPolicy,
    SubscriptionConfig,
    TaskFailed,
)
from omnidaemon.ports.event_bus import BusCapabilities
from omnidaemon.runtime import worker
from omnidaemon_memory import MemoryEventBus, MemoryStore


async def echo(message):
    return message["content"]


def test_the_decorator_returns_the_function(sdk, run):
    @sdk.agent("t")
    @sdk.agent("u", name="other")
    async def work(message):
        return message * 2

    assert run(work(3)) == 6
    assert {(config.topic, config.name) for config in sdk.agents} == {("t", "work"), ("u", "other")}


def test_the_decorator_takes_the_fields_of_both_configs(sdk):
    @sdk.agent(
        "t",
        name="n",
        description="d",
        version="2",
        tags=["a"],
        tools=["b"],
        isolation="thread",
        max_concurrency=3,
        retry=RetryPolicy(max_attempts=2),
        timeout=5,
        lease=7,
        start_from="now",
        dead_letter=False,
        dead_letter_topic="dead",
    )
    async def work(): ...

    (config,) = sdk.agents
    assert (config.name, config.description, config.version, config.tags, config.tools, config.isolation) == (
        "n",
        "d",
        "2",
        ("a",),
        ("b",),
        "thread",
    )
    assert config.config == SubscriptionConfig(
        max_concurrency=3,
        retry=RetryPolicy(max_attempts=2),
        timeout=5,
        lease=7,
        start_from="now",
        dead_letter=False,
        dead_letter_topic="dead",
    )
    for options, says in (
        ({"colour": "blue"}, r"AgentConfig\(colour='blue'\): Extra inputs are not permitted"),
        ({"timeout": 5, "config": SubscriptionConfig()}, "give either config= or timeout"),
        ({"timeout": -5}, r"SubscriptionConfig\(timeout=-5\)"),
        ({"callback": work}, "callback"),
    ):
        with pytest.raises((ConfigurationError, TypeError), match=says):
            sdk.agent("v", **options)(work)
    for topic in ("a b", "", "omnidaemon.x", None):
        with pytest.raises(ConfigurationError, match="invalid topic"):
            sdk.agent(topic)(work)


def test_two_callbacks_of_one_name_are_an_error_the_same_or_an_explicit_name_replaces(sdk):
    def make(value):
        async def work():
            return value

        return work

    first, second = make(1), make(2)
    sdk.agent("t")(first)
    sdk.agent("t")(first)
    with pytest.raises(ConfigurationError, match="two agents on 't' are called 'work'; give one of them name="):
        sdk.agent("t")(second)
    sdk.agent("t", name="work")(second)
    sdk.agent("t", name="another")(first)
    sdk.agent("u")(second)
    assert [(config.topic, config.name) for config in sdk.agents] == [("t", "work"), ("t", "another"), ("u", "work")]
    assert sdk.agents[0].callback is second


def test_the_same_method_twice_is_the_same_callable(sdk):
    class Service:
        async def work(self): ...

    service = Service()
    sdk.agent("t")(service.work)
    sdk.agent("t")(service.work)
    assert len(sdk.agents) == 1
    with pytest.raises(ConfigurationError, match="two agents"):
        sdk.agent("t")(Service().work)


def test_two_agents_of_one_object_that_compare_equal_are_two(sdk):
    class Anything:
        __hash__ = None

        def __eq__(self, other):
            return isinstance(other, Anything)

        async def __call__(self): ...

    sdk.agent("t")(Anything())
    with pytest.raises(ConfigurationError, match="two agents"):
        sdk.agent("t")(Anything())


def test_a_lambda_needs_a_name(sdk):
    with pytest.raises(ConfigurationError, match=r"has no name of its own: give AgentConfig\(name=\.\.\.\)"):
        sdk.agent("t")(lambda: 1)
    sdk.agent("t", name="fine")(lambda: 1)


def test_registering_while_the_worker_runs_begins_at_once(sdk, serve, run):
    async def main():
        async with serve(sdk):
            early = await sdk.publish("t", 1)
            await sdk.register_agent(agent_config=AgentConfig(topic="t", callback=echo))
            assert await early.result(timeout=1) == 1
            assert await (await sdk.publish("t", 2)).result(timeout=1) == 2

            async def better(message):
                return message["content"] * 10

            await sdk.register_agent(AgentConfig(topic="t", name="echo", callback=better))
            assert await (await sdk.publish("t", 2)).result(timeout=1) == 20

    run(main())


def test_registering_before_the_start_does_no_io(run):
    sdk = OmniDaemonSDK(event_bus="nonsense", store="nonsense")

    async def main():
        await sdk.register_agent(AgentConfig(topic="t", callback=echo))
        assert len(sdk.agents) == 1

    run(main())


def test_an_agent_that_cannot_be_registered_is_not_declared_either(store, run):
    class NoTime(MemoryEventBus):
        capabilities = BusCapabilities(name="timeless", durability="process", scope="process", history=True)

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.capabilities = type(self).capabilities

    sdk = OmniDaemonSDK(event_bus=NoTime(), store=store)
    bad = AgentConfig(topic="t", callback=echo, config=SubscriptionConfig(start_from=datetime(2026, 1, 1, tzinfo=UTC)))

    async def main():
        await sdk.start()
        with pytest.raises(ConfigurationError, match=r"agent echo: start_from a time needs .* 'timeless' has none"):
            await sdk.register_agent(bad)
        assert sdk.agents == []
        await sdk.register_agent(AgentConfig(topic="t", callback=echo))
        with pytest.raises(ConfigurationError):
            await sdk.register_agent(bad)
        assert sdk.agents[0].config.start_from is None
        assert await (await sdk.publish("t", 5)).result(timeout=1) == 5
        await sdk.shutdown()
        sdk.add_agent(bad)
        with pytest.raises(ConfigurationError, match="timeless"):
            await sdk.start()
        assert not sdk.running
        await sdk.shutdown()

    run(main())


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


def test_the_ports_are_had_where_they_are_connected(sdk, run):
    with pytest.raises(Closed, match="use `async with sdk:`"):
        _ = sdk.store

    async def main():
        with pytest.raises(Closed):
            _ = sdk.event_bus
        async with sdk:
            assert isinstance(sdk.store, MemoryStore)
            assert isinstance(sdk.event_bus, MemoryEventBus)
            await sdk.store.ping()
            await sdk.event_bus.ping()
        with pytest.raises(Closed):
            _ = sdk.store

    run(main())


def test_two_sdks_of_one_process_share_work_by_namespace(serve, run):
    async def who(ctx: Context):
        return ctx.agent

    one = OmniDaemonSDK("memory", "memory", namespace="shared")
    two = OmniDaemonSDK("memory", "memory", namespace="shared")
    apart = OmniDaemonSDK("memory", "memory", namespace="shared2")
    for sdk in (one, two):
        sdk.add_agent(AgentConfig(topic="t", callback=who))

    async def main():
        async with serve(one, two), apart:
            events = await apart.publish_many([("t", 0)]) + await one.publish_many([("t", n) for n in range(20)])
            for event in events[1:]:
                assert await event.result(timeout=1) == "who"
                assert (await two.get_task(event.id))["state"] == "completed"
            assert await apart.get_task(events[0].id) is None
            health = await one.health()
            assert len(health["workers"]) == 2
            assert len({worker["worker"] for worker in health["workers"]}) == 2
            assert await apart.list_agents() == {}
        assert (await one.metrics())["t"]["who"]["tasks_processed"] == 20

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


def test_a_logger_for_the_agent(sdk, serve, run, caplog):
    @sdk.agent("t")
    async def work(ctx: Context):
        ctx.logger.warning("hello")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await event.result(timeout=1)
            return event.id

    event_id = run(main())
    (record,) = [record for record in caplog.records if record.getMessage() == "hello"]
    assert (record.agent, record.event_id, record.attempt) == ("work", event_id, 1)


class Refusing(MemoryEventBus):
    tries = 0

    async def open(self):
        Refusing.tries += 1
        raise AccessDenied("redis://example refuses the user name or password")


def test_wrong_credentials_are_an_error_at_once(store, run):
    sdk = OmniDaemonSDK(event_bus=Refusing(), store=store, connect_timeout=60)

    async def main():
        for call in (sdk.start, lambda: sdk.publish("t", 1), sdk.connections.get):
            Refusing.tries = 0
            with pytest.raises(AccessDenied, match="refuses the user name or password"):
                await call()
            assert Refusing.tries == 1
        health = await sdk.health()
        assert (health["status"], health["event_bus_connected"], health["storage_healthy"]) == ("down", False, True)
        assert "refuses" in health["error"]

    run(main())


class Late(MemoryStore):
    tries = 0

    async def open(self):
        Late.tries += 1
        if Late.tries < 3:
            raise BackendUnavailable("not yet")
        await super().open()


def test_a_server_that_comes_up_in_time_is_waited_for(bus, serve, run):
    sdk = OmniDaemonSDK(event_bus=bus, store=Late(), connect_timeout=5)
    sdk.agent("t")(echo)

    async def main():
        async with serve(sdk):
            assert Late.tries == 3
            assert await (await sdk.publish("t", 1)).result(timeout=1) == 1

    run(main())


class Lost(MemoryStore):
    async def open(self):
        raise BackendUnavailable("cannot reach redis://example: refused")


def test_an_unreachable_server_is_one_clear_error(bus, run):
    sdk = OmniDaemonSDK(event_bus=bus, store=Lost(), connect_timeout=0.05)
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def main():
        for call in (sdk.start, sdk.connections.get, lambda: sdk.publish("t", 1), lambda: sdk.get_task("x")):
            with pytest.raises(BackendUnavailable, match="cannot reach redis://example: refused"):
                await call()
        with pytest.raises(BackendUnavailable):
            async with sdk:
                pass
        assert not sdk.running
        health = await sdk.health()
        assert health["status"] == "down"
        assert "cannot reach" in health["error"]
        await sdk.shutdown()

    run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "omnidaemon-io"]
