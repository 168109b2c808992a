"""What a run does through its context: steps, questions, follow-ups, usage (api.md §4)."""

import asyncio
import collections
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
    RetryAfter,
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


@pytest.fixture
def calls():
    return collections.Counter()


async def published(sdk, topic):
    """The events on a topic, oldest first, undecoded."""
    return [entry["data"] for entry in reversed(await sdk.inspect_topic(topic, 100))]


def test_what_the_context_tells(sdk, serve, run):
    seen = []

    @sdk.agent("t", timeout=50, retry=QUICK)
    async def work(ctx: Context):
        seen.append((ctx.event.content, ctx.agent, ctx.attempt, ctx.starts, ctx.cancelled.is_set(), ctx.state))
        seen.append(ctx.deadline)
        if ctx.attempt == 1:
            raise RetryAfter(0) if ctx.starts == 1 else OSError

    @sdk.agent("u")
    async def endless(ctx: Context):
        return ctx.deadline

    async def main():
        async with serve(sdk):
            before = time.time()
            await (await sdk.publish("t", "c")).result(timeout=3)
            assert seen[0::2] == [
                ("c", "work", 1, 1, False, None),
                ("c", "work", 1, 2, False, None),
                ("c", "work", 2, 3, False, None),
            ]
            assert all(before + 49 < deadline < before + 60 for deadline in seen[1::2])
            assert await (await sdk.publish("u")).result(timeout=1) is None

    run(main())


def test_a_step_is_kept_by_a_retry_and_what_it_raises_is_not(sdk, serve, run, calls):
    async def fetch(name, times):
        calls[name] += 1
        if calls[name] < times:
            raise OSError(name)
        return {"name": name}

    def blocking(value):
        calls["blocking"] += 1
        return [value]

    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        first = await ctx.step("first", fetch, "first", 1)
        second = await ctx.step("second", fetch, "second", 2)
        third = await ctx.step("third", blocking, Point(1))
        again = await ctx.step("first", fetch, "never", 1)
        return [first, second, third, again, await ctx.step("none", lambda: None)]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=1) == [
                {"name": "first"},
                {"name": "second"},
                [{"x": 1}],
                {"name": "first"},
                None,
            ]
            assert calls == {"first": 1, "second": 2, "blocking": 1}
            history = (await event.task().info())["history"]
            assert [sorted(entry["steps"]) for entry in history] == [["first"], ["none", "second", "third"]]
            assert all(isinstance(took, float) for entry in history for took in entry["steps"].values())

    run(main())


def test_steps_may_run_side_by_side(sdk, serve, run, calls):
    async def fetch(name):
        calls[name] += 1
        await asyncio.sleep(0.01)
        return name

    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        values = await asyncio.gather(*(ctx.step(name, fetch, name) for name in "abc"))
        if ctx.attempt == 1:
            raise OSError
        return values

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t")).result(timeout=1) == ["a", "b", "c"]
        assert calls == {"a": 1, "b": 1, "c": 1}

    run(main())


def test_a_step_is_kept_by_a_dead_letter_replay_and_not_by_a_history_replay(sdk, serve, run, eventually, calls):
    broken = True

    def fetch():
        calls["fetch"] += 1
        return calls["fetch"]

    @sdk.agent("t", retry=RetryPolicy(max_attempts=1))
    async def work(ctx: Context):
        value = await ctx.step("fetch", fetch)
        if broken:
            raise OSError
        return value

    async def main():
        nonlocal broken
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed):
                await event.result(timeout=1)
            broken = False
            assert await sdk.replay_dead_letters(f"{event.id}:work") == 1
            assert await event.result(timeout=1) == 1
            assert (await sdk.replay("t", "work")).replayed == 1

            async def again():
                return (await event.task().info()).get("result") == 2

            await eventually(again)

    run(main())


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


def test_usage_goes_into_the_record_and_the_metrics(sdk, serve, run):
    @sdk.agent("t", retry=QUICK)
    async def work(ctx: Context):
        ctx.usage(input_tokens=10, cost=0.5)
        ctx.usage(input_tokens=5)
        if ctx.attempt == 1:
            raise OSError

    async def main():
        async with serve(sdk):
            for _ in range(2):
                event = await sdk.publish("t")
                await event.result(timeout=1)
            assert (await event.task().info())["usage"] == {"input_tokens": 30, "cost": 1.0}
            assert (await sdk.metrics())["t"]["work"]["usage"] == {"input_tokens": 60, "cost": 2.0}

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


def test_a_question_spends_no_attempt_and_keeps_what_was_done(sdk, serve, run, eventually, calls):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work(ctx: Context):
        calls["runs"] += 1
        await ctx.step("fetch", lambda: calls.update(steps=1))
        try:
            first = await ctx.ask("first", "1?", timeout=timedelta(seconds=60))
        except Exception as error:  # noqa: BLE001 - this is what users write
            return f"swallowed {error!r}"
        second = await ctx.ask("second", "2?")
        if ctx.attempt == 1:
            raise OSError
        return [first, second, ctx.attempt]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            task = event.task("work")

            async def asks(key):
                record = await task.info()
                return (
                    record is not None
                    and record.get("asked", {}).get("key") == key
                    and record["state"] == "input_required"
                )

            await eventually(lambda: asks("first"))
            await task.answer("first", 1)
            await eventually(lambda: asks("second"))
            await task.answer("second", {"two": 2})
            assert await task.result(timeout=1) == [1, {"two": 2}, 2]
            record = await task.info()
            assert "asked" not in record
            assert calls == {"runs": 4, "steps": 1}
            assert (await sdk.metrics())["t"]["work"]["asked"] == 2

    run(main())


def test_an_unanswered_question_is_a_dead_letter(sdk, serve, run):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.ask("k", "?", timeout=0.05)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed, match="not answered in time") as caught:
                await event.result(timeout=2)
            assert caught.value.reason == "unanswered"
            assert [letter["reason"] for letter in await sdk.dead_letters()] == ["unanswered"]

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_question_with_a_senseless_timeout(sdk, serve, run, timeout):
    @sdk.agent("t")
    async def work(ctx: Context):
        await ctx.ask("k", "?", timeout=timeout)

    async def main():
        async with serve(sdk):
            with pytest.raises(TaskFailed, match="use seconds >= 0, or None"):
                await (await sdk.publish("t")).result(timeout=1)

    run(main())


def test_cancelling_a_task_that_waits_for_a_human(sdk, serve, run, eventually):
    @sdk.agent("t", max_concurrency=1)
    async def work(ctx: Context, message):
        return await ctx.ask("k", "?") if message["content"] == "ask" else "free"

    async def main():
        async with serve(sdk):
            waiting = await sdk.publish("t", "ask", session_id="s")

            async def asked():
                return (await sdk.list_tasks(state="input_required"))["tasks"]

            await eventually(asked)
            # Nothing is held meanwhile, neither slot nor lane.
            assert await (await sdk.publish("t", "other", session_id="s")).result(timeout=1) == "free"
            assert await waiting.task("work").cancel() is True
            assert (await waiting.task("work").info())["state"] == "canceled"

    run(main())
