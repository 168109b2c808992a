"""Declaring agents (api.md §2)."""

from datetime import UTC, datetime

import pytest

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    Context,
    OmniDaemonSDK,
    RetryPolicy,
    SubscriptionConfig,
)
from omnidaemon.ports.event_bus import BusCapabilities
from omnidaemon_memory import MemoryEventBus


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
