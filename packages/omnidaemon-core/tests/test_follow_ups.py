"""What a run publishes: follow-ups and replies (api.md §4, design §4)."""

import asyncio
import dataclasses
import time
from datetime import timedelta

import pytest
from pydantic import BaseModel

from omnidaemon import (
    Context,
    EventEnvelope,
    InvalidEvent,
    LeaseLost,
    NonRetryable,
    OmniDaemonSDK,
    RetryPolicy,
    TaskFailed,
    UnsupportedCapability,
)
from omnidaemon.ports.event_bus import BusCapabilities
from omnidaemon_memory import MemoryEventBus, MemoryStore

QUICK = RetryPolicy(max_attempts=3, initial=0.001)


class Upload(BaseModel):
    filename: str


@dataclasses.dataclass
class Point:
    x: int


async def published(sdk, topic):
    """The events on a topic, oldest first, undecoded."""
    return [entry["data"] for entry in reversed(await sdk.inspect_topic(topic, 100))]


def test_follow_ups_are_sent_once_and_only_if_the_attempt_ends_well(sdk, serve, run, eventually):
    ids = []

    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context, event: EventEnvelope):
        ids.append([await ctx.publish("next", {"n": n, "attempt": ctx.attempt}) for n in range(2)])
        ids[-1].append(await ctx.publish("other", 1))
        if event.content == "ask":
            await ctx.ask("k", "?")
        if ctx.attempt < 3 or event.content == "bad":
            raise OSError

    async def main():
        async with serve(sdk):
            bad = await sdk.publish("t", "bad")
            with pytest.raises(TaskFailed):
                await bad.result(timeout=1)
            asking = await sdk.publish("t", "ask")

            async def asked():
                return (await sdk.list_tasks(state="input_required"))["tasks"]

            await eventually(asked)
            assert await published(sdk, "next") == []
            ids.clear()
            good = await sdk.publish("t", "good")
            await good.result(timeout=1)
            events = await eventually(lambda: published(sdk, "next"))
            assert [event["payload"]["content"] for event in events] == [{"n": 0, "attempt": 3}, {"n": 1, "attempt": 3}]
            # The same in each attempt: a repeated send is recognised.
            assert ids[0] == ids[1] == ids[2]
            assert [event["id"] for event in events] == ids[0][:2]
            assert len({*ids[0]}) == 3
            await asking.task("work").cancel()

    run(main())


def test_what_a_follow_up_inherits(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.publish("plain", Upload(filename="a"))
        await ctx.publish("nested", [Upload(filename="a"), Point(1)])
        await ctx.publish(
            "own",
            None,
            tenant_id="other",
            correlation_id="mine",
            source="agent",
            session_id="s",
            key="k",
            headers={"a": "b"},
            expires_at=4e9,
            reply_to="replies",
        )
        await ctx.publish("keyed", 1, idempotency_key="once")

    async def main():
        async with serve(sdk):
            event = await sdk.publish(
                "t",
                1,
                tenant_id="acme",
                correlation_id="c",
                causation_id="before",
                source="test",
                session_id="conversation",
                key="ordering",
                headers={"h": "1"},
                reply_to="answers",
                traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                tracestate="a=b",
            )
            await event.result(timeout=1)
            (plain,) = await eventually(lambda: published(sdk, "plain"))
            assert plain["payload"] == {"content": {"filename": "a"}}
            assert plain["hops"] == 1
            inherited = {
                "tenant_id": "acme",
                "correlation_id": "c",
                "causation_id": event.id,
                "source": "test",
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "tracestate": "a=b",
            }
            assert {name: plain[name] for name in inherited} == inherited
            assert set(plain) - set(inherited) == {
                "id", "topic", "payload", "created_at", "delivery_attempts", "hops", "schema_version"
            }  # fmt: skip
            (nested,) = await eventually(lambda: published(sdk, "nested"))
            assert nested["payload"]["content"] == [{"filename": "a"}, {"x": 1}]
            (own,) = await eventually(lambda: published(sdk, "own"))
            assert own["tenant_id"] == "other"
            assert own["correlation_id"] == "mine"
            assert own["source"] == "agent"
            assert own["payload"]["reply_to"] == "replies"
            (keyed,) = await eventually(lambda: published(sdk, "keyed"))
            direct = await sdk.publish("keyed", 1, idempotency_key="once", tenant_id="acme")
            assert keyed["id"] == direct.id
            without = await sdk.publish("t", 1)
            await without.result(timeout=1)

            async def second():
                found = await published(sdk, "plain")
                return found[1] if len(found) == 2 else None

            # Without a correlation the first event of the chain becomes it.
            assert (await eventually(second))["correlation_id"] == without.id

    run(main())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"colour": "blue"}, "unknown field 'colour'"),
        ({"delay": -1}, "delay=-1 must be"),
        ({"key": ""}, "key has 0 characters"),
        ({"reply_to": "a b"}, "invalid topic 'a b'"),
        ({"deliver_at": 5.0, "expires_at": 4.0}, "it would never run"),
        ({"webhook": "https://example.com"}, "omnidaemon-webhooks"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"topic_": "a b"}, "invalid topic 'a b'"),
        ({"topic_": "omnidaemon.x"}, "reserved"),
    ],
)
def test_a_follow_up_that_cannot_be_published_is_no_retry(sdk, serve, run, fields, says):
    caught = []

    @sdk.agent("t")
    async def work(ctx: Context):
        options = dict(fields)
        try:
            await ctx.publish(options.pop("topic_", "u"), 1, **options)
        except InvalidEvent as error:
            caught.append(str(error))
            raise

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed, match=says) as failed:
                await event.result(timeout=1)
            assert failed.value.reason == "non_retryable"
            assert len(caught) == 1

    run(main())


def test_a_delayed_follow_up(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.publish("u", "late", delay=timedelta(seconds=0.1))

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await event.result(timeout=1)
            assert await published(sdk, "u") == []
            (late,) = await eventually(lambda: published(sdk, "u"))
            assert late["deliver_at"] <= time.time()

    run(main())


def test_nothing_can_follow_an_attempt_that_has_ended(sdk, serve, run):
    kept = []

    @sdk.agent("t")
    async def work(ctx: Context):
        kept.append(ctx)

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t")).result(timeout=1)
            with pytest.raises(LeaseLost, match="has ended"):
                await kept[0].publish("u", 1)
            with pytest.raises(LeaseLost):
                await kept[0].progress("late")
            with pytest.raises(LeaseLost):
                await kept[0].step("late", lambda: 1)

    run(main())


def test_a_keyed_follow_up_on_a_bus_without_order_is_refused(serve, run, eventually):
    class Unordered(MemoryEventBus):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.capabilities = BusCapabilities(name="plain", durability="process", scope="process", history=True)

    sdk = OmniDaemonSDK(event_bus=Unordered(), store=MemoryStore())
    caught = []

    @sdk.agent("t")
    async def work(ctx: Context):
        try:
            await ctx.publish("u", 1, key="k")
        except UnsupportedCapability as error:
            caught.append(str(error))
        await ctx.publish("u", 1, session_id="s")

    async def main():
        async with serve(sdk):
            await (await sdk.publish("t")).result(timeout=1)
            assert "key='k' needs a bus that orders by key" in caught[0]
            await eventually(lambda: published(sdk, "u"))

    run(main())


def test_reply_to_carries_tenant_correlation_and_causation_and_no_webhook(sdk, serve, run, eventually):
    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context, message):
        if ctx.attempt == 1:
            raise OSError
        if message["content"] == "bad":
            raise NonRetryable
        return Upload(filename="a")

    got = []

    @sdk.agent("replies")
    async def replied(message):
        got.append(message)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1, reply_to="replies", tenant_id="acme", correlation_id="c", source="test")
            other = await sdk.publish("t", 1, reply_to="replies")
            bad = await sdk.publish("t", "bad", reply_to="replies")
            for published_ in (event, other):
                await published_.result(timeout=1)
            with pytest.raises(TaskFailed):
                await bad.result(timeout=1)
            await eventually(lambda: len(got) == 2)
            await asyncio.sleep(0.05)
            assert len(got) == 2  # nothing is sent on failure
            reply = next(message for message in got if message["tenant_id"] == "acme")
            assert reply["content"] == {"filename": "a"}
            assert reply["correlation_id"] == "c"
            assert reply["causation_id"] == event.id
            assert reply["source"] == "test"
            assert reply["webhook"] is None
            assert reply["reply_to"] is None
            assert reply["task_id"] != event.id
            second = next(message for message in got if message["tenant_id"] is None)
            assert second["correlation_id"] == other.id

    run(main())


def test_two_agents_of_one_event_both_reply(sdk, serve, run, eventually):
    got = []

    @sdk.agent("t")
    async def one():
        return "one"

    @sdk.agent("t")
    async def two():
        return "two"

    sdk.agent("u", name="one")(one)

    @sdk.agent("replies")
    async def replied(message):
        got.append(message["content"])

    async def main():
        async with serve(sdk):
            # The same id on two topics, as somebody may publish it who forwards events.
            await sdk.publish("t", 1, reply_to="replies", id="e")
            await sdk.publish("u", 1, reply_to="replies", id="e")
            await eventually(lambda: len(got) == 3)
            assert sorted(got) == ["one", "one", "two"]

    run(main())
