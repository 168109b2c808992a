"""What users declare about an agent (api.md §5)."""

from datetime import UTC, datetime, timedelta

import pytest

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    RetryPolicy,
    SubscriptionConfig,
)


async def work(message):
    return message


class TestAgentConfig:
    """What users declare about an agent (api.md §5)."""

    def test_defaults(self):
        config = AgentConfig(topic="t", callback=work)
        assert (config.name, config.version, config.description, config.tags, config.tools) == (
            "work",
            "1.0.0",
            "",
            (),
            (),
        )
        subscription = config.config
        assert (subscription.max_concurrency, subscription.timeout, subscription.lease) == (10, None, 15)
        assert (subscription.start_from, subscription.dead_letter, subscription.dead_letter_topic) == (None, True, None)
        retry = subscription.retry
        assert (retry.max_attempts, retry.initial, retry.factor, retry.max, retry.jitter) == (4, 1, 2, 300, "full")

    def test_what_may_be_left_empty(self):
        config = AgentConfig(topic="t", callback=work, name=None, description=None, tools=None, tags=None)
        assert (config.name, config.description, config.tools, config.tags) == ("work", "", (), ())

    def test_it_is_frozen(self):
        with pytest.raises(ValueError, match="frozen"):
            AgentConfig(topic="t", callback=work).topic = "u"

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"topic": "a b"}, "invalid topic 'a b': use 1 to 100 of"),
            ({"topic": ""}, "invalid topic ''"),
            ({"topic": None}, r"AgentConfig\(topic=None\): Input should be a valid string"),
            ({"topic": "x" * 101}, "invalid topic"),
            ({"name": "a:b"}, "invalid agent name 'a:b': use 1 to 64 of"),
            ({"name": "x" * 65}, "invalid agent name"),
            ({"name": "my agent"}, "invalid agent name"),
            ({"name": 5}, r"AgentConfig\(name=5\): Input should be a valid string"),
            ({"callback": 5}, r"AgentConfig\(callback=5\): Input should be callable"),
            ({"callback": None}, "give either callback= or agent="),
            ({"agent": object()}, "give either callback= or agent="),
            ({"isolation": "process"}, r"AgentConfig\(isolation='process'\): Input should be 'inline' or 'thread'"),
            ({"config": {"timeout": -1}}, r"timeout=-1\): Input should be greater than"),
            ({"config": 5}, r"AgentConfig\(config=5\)"),
            ({"colour": "blue"}, r"AgentConfig\(colour='blue'\): Extra inputs are not permitted"),
            ({"tags": "abc"}, r"AgentConfig\(tags='abc'\)"),
            ({"tools": [5]}, r"AgentConfig\(tools.0=5\)"),
        ],
    )
    def test_what_an_agent_cannot_be(self, fields, says):
        with pytest.raises(ConfigurationError, match=says):
            AgentConfig(**{"topic": "t", "callback": work, **fields})

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"max_concurrency": 0}, r"max_concurrency=0\): Input should be greater than or equal to 1"),
            ({"max_concurrency": -1}, "max_concurrency=-1"),
            ({"max_concurrency": 1.5}, "max_concurrency=1.5"),
            ({"max_concurrency": "many"}, "max_concurrency='many'"),
            ({"timeout": 0}, r"timeout=0\): Input should be greater than 0"),
            ({"timeout": -5}, "timeout=-5"),
            ({"timeout": float("inf")}, "timeout=inf"),
            ({"lease": 0}, "lease=0"),
            ({"lease": timedelta(seconds=-1)}, "lease="),
            ({"start_from": 5}, r"start_from=5\): .*'beginning', 'now', a datetime or a position"),
            ({"start_from": ""}, r"start_from=''\)"),
            ({"dead_letter": "perhaps"}, "dead_letter='perhaps'"),
            ({"dead_letter_topic": "a b"}, "invalid topic 'a b'"),
            ({"dead_letter_topic": "omnidaemon.x"}, "reserved"),
            ({"retry": 5}, "retry=5"),
            ({"retry": {"max_attempts": 0}}, "max_attempts=0"),
            ({"group_name": "g"}, r"group_name=\.\.\.\) is gone: the group is named by AgentConfig\(name=\.\.\.\)"),
            ({"max_retry": 3}, r"max_retry=3\): Extra inputs are not permitted"),
            ({"max_retries": -1}, "max_retries must be an integer >= 0, got -1"),
            ({"max_retries": "3"}, "max_retries must be an integer >= 0, got '3'"),
            ({"consumer_count": 0}, "consumer_count must be an integer >= 1, got 0"),
            ({"dlq_enabled": "perhaps"}, "perhaps"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_what_a_subscription_cannot_be(self, fields, says):
        with pytest.raises(ConfigurationError, match=says):
            SubscriptionConfig(**fields)

    @pytest.mark.parametrize(
        "fields",
        [
            {"max_attempts": 0},
            {"max_attempts": -1},
            {"max_attempts": 1001},
            {"initial": -1},
            {"initial": float("nan")},
            {"factor": 0.5},
            {"factor": float("inf")},
            {"max": -1},
            {"jitter": "some"},
            {"attempts": 3},
        ],
    )
    def test_what_a_retry_policy_cannot_be(self, fields):
        name = next(iter(fields))
        with pytest.raises(ConfigurationError, match=rf"RetryPolicy\({name}="):
            RetryPolicy(**fields)

    def test_durations_may_be_timedeltas_and_zero_means_zero(self):
        config = SubscriptionConfig(
            timeout=timedelta(minutes=1),
            lease=timedelta(seconds=20),
            retry=RetryPolicy(initial=timedelta(seconds=2), max=timedelta(hours=1)),
        )
        assert (config.timeout, config.lease, config.retry.initial, config.retry.max) == (60, 20, 2, 3600)
        assert RetryPolicy(initial=0, max=0).max == 0

    @pytest.mark.parametrize("start", ["beginning", "now", "17-0", datetime(2026, 1, 1, tzinfo=UTC)])
    def test_where_a_group_may_begin(self, start):
        assert SubscriptionConfig(start_from=start).start_from == start

    @pytest.mark.parametrize(
        ("fields", "name", "value"),
        [
            ({"max_retries": 0}, "retry", RetryPolicy(max_attempts=1)),
            ({"max_retries": 3}, "retry", RetryPolicy(max_attempts=4)),
            ({"dlq_retry_limit": 5}, "retry", RetryPolicy(max_attempts=6)),
            ({"consumer_count": 3}, "max_concurrency", 30),
            ({"dlq_enabled": False}, "dead_letter", False),
            ({"reclaim_idle_ms": 300_000}, "lease", 15),
            ({"max_retries": 3, "retry": RetryPolicy(max_attempts=2)}, "retry", RetryPolicy(max_attempts=2)),
        ],
    )
    def test_names_of_the_first_version(self, fields, name, value):
        with pytest.warns(DeprecationWarning, match=next(iter(fields))) as warned:
            config = SubscriptionConfig(**fields)
        assert getattr(config, name) == value
        assert warned[0].filename == __file__
