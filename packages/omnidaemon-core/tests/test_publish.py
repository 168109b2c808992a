"""Publishing: fields, ids, delays, expiry (api.md §3, design §4, P4, P5)."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from omnidaemon import (
    EventEnvelope,
    InvalidEvent,
    InvalidName,
    PayloadBase,
)


class Upload(BaseModel):
    filename: str


@dataclasses.dataclass
class Point:
    x: int
    inner: "Point | None" = None


async def bodies(sdk, topic):
    return [entry["data"] for entry in reversed(await sdk.inspect_topic(topic, 100))]


def test_every_field_reaches_topic_agent_and_record(sdk, serve, run):
    seen = []

    @sdk.agent("t")
    async def work(message, event: EventEnvelope):
        seen.append((message, event))

    fields = {
        "key": "k",
        "tenant_id": "acme",
        "idempotency_key": "once",
        "expires_at": 4e9,
        "reply_to": "replies",
        "correlation_id": "c",
        "causation_id": "why",
        "session_id": "s",
        "source": "test",
        "headers": {"h": "1"},
    }

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"a": 1}, **fields)
            await event.result(timeout=1)
            record = await sdk.get_result(event.id)
        message, envelope = seen[0]
        for name, value in fields.items():
            if name != "reply_to":
                assert getattr(envelope, name) == value
        assert envelope.payload.reply_to == message["reply_to"] == "replies"
        assert message["content"] == {"a": 1}
        assert message["topic"] == "t"
        assert message["task_id"] == event.id
        assert message["agent"] == "work"
        assert message["delivery_attempts"] == 1
        assert message["created_at"] == envelope.created_at
        for name in ("tenant_id", "correlation_id", "causation_id", "source", "session_id", "key", "headers"):
            assert message[name] == record[name] == fields[name]
        assert message["webhook"] is None

    run(main())


@pytest.mark.parametrize(
    ("content", "arrives"),
    [
        (None, None),
        (True, True),
        (1e22, 1e22),
        (-0.0, -0.0),
        (10**40, 10**40),
        ("ü\U0001f600", "ü\U0001f600"),
        ([1, [2, (3,)]], [1, [2, [3]]]),
        ({"b": 1, "a": {}}, {"b": 1, "a": {}}),
        (Upload(filename="a"), {"filename": "a"}),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        ({"files": [Upload(filename="a"), Point(1)]}, {"files": [{"filename": "a"}, {"x": 1, "inner": None}]}),
    ],
)
def test_content_is_any_json_value_model_or_dataclass(sdk, run, content, arrives):
    async def main():
        async with sdk:
            await sdk.publish("t", content)
            (body,) = await bodies(sdk, "t")
            assert repr(body["payload"]["content"]) == repr(arrives)

    run(main())


def test_an_envelope_is_published_as_it_is(sdk, run):
    envelope = EventEnvelope(
        id="e",
        topic="t",
        payload=PayloadBase(content=1, note="extra"),
        created_at=5.0,
        tenant_id="acme",
        colour="blue",
    )

    async def main():
        async with sdk:
            event = await sdk.publish(envelope)
            assert (event.id, event.topic) == ("e", "t")
            (body,) = await bodies(sdk, "t")
            assert body["created_at"] == 5.0
            assert body["tenant_id"] == "acme"
            assert body["colour"] == "blue"
            assert body["payload"] == {"content": 1, "note": "extra"}
            with pytest.raises(InvalidEvent, match="takes nothing else"):
                await sdk.publish(envelope, {"a": 1})
            with pytest.raises(InvalidEvent, match="takes nothing else"):
                await sdk.publish(envelope, key="k")
            assert await sdk.publish_task(event_envelope=envelope.model_copy(update={"id": "f"})) == "f"

    run(main())


def test_an_idempotency_key_gives_both_publishers_the_same_handle(sdk, serve, run):
    ran = []

    @sdk.agent("t")
    async def work(message):
        ran.append(message["content"])

    async def main():
        async with serve(sdk):
            first = await sdk.publish("t", 1, idempotency_key="x", tenant_id="a")
            again = await sdk.publish("t", 2, idempotency_key="x", tenant_id="a")
            envelope = EventEnvelope(topic="t", payload=PayloadBase(content=3), idempotency_key="x", tenant_id="a")
            third = await sdk.publish(envelope)
            (fourth,) = await sdk.publish_many([envelope])
            assert first.id == again.id == third.id == fourth.id
            others = [
                await sdk.publish("t", 4, idempotency_key="x", tenant_id="b"),
                await sdk.publish("t", 5, idempotency_key="y", tenant_id="a"),
                await sdk.publish("t", 6, idempotency_key="x"),
                await sdk.publish("t", 7),
            ]
            assert len({first.id, *(other.id for other in others)}) == 5
            for event in (first, *others):
                await event.result(timeout=1)
            kept = EventEnvelope(id="mine", topic="t", payload=PayloadBase(content=8), idempotency_key="x")
            assert (await sdk.publish(kept)).id == "mine"
        assert sorted(ran[:5]) == [1, 4, 5, 6, 7]

    run(main())


def test_the_same_id_runs_once_per_agent(sdk, serve, run):
    ran = []

    @sdk.agent("t")
    async def one(message):
        ran.append(("one", message["content"]))

    @sdk.agent("t")
    async def two(message):
        ran.append(("two", message["content"]))

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", "first", id="e")
            await event.results(timeout=1)
            await sdk.publish("t", "second", id="e")
            last = await sdk.publish("t", "last")
            await last.results(timeout=1)
        assert sorted(ran) == [("one", "first"), ("one", "last"), ("two", "first"), ("two", "last")]

    run(main())


def test_a_delayed_event_appears_when_it_is_due(sdk, serve, run):
    ran = []

    @sdk.agent("t")
    async def work(message):
        ran.append((message["content"], datetime.now(UTC).timestamp()))

    async def main():
        async with serve(sdk):
            began = datetime.now(UTC)
            later = [
                await sdk.publish("t", "delay", delay=0.15),
                await sdk.publish("t", "timedelta", delay=timedelta(seconds=0.15)),
                await sdk.publish("t", "datetime", deliver_at=began + timedelta(seconds=0.15)),
                await sdk.publish("t", "number", deliver_at=began.timestamp() + 0.15),
                *await sdk.publish_many([("t", "many", {"delay": 0.15})]),
            ]
            now = await sdk.publish("t", "now")
            await now.result(timeout=1)
            assert [content for content, _ in ran] == ["now"]
            assert await sdk.get_task(later[0].id) is None
            for event in later:
                await event.result(timeout=2)
            assert all(at >= began.timestamp() + 0.15 for content, at in ran if content != "now")

    run(main())


def test_past_deliver_at_is_due_at_once(sdk, serve, run):
    @sdk.agent("t")
    async def work():
        return 1

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1, deliver_at=datetime(2020, 1, 1, tzinfo=UTC))
            assert await event.result(timeout=1) == 1

    run(main())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"delay": -1}, r"delay=-1 must be a number of seconds >= 0"),
        ({"delay": float("nan")}, r"delay=nan must be"),
        ({"delay": "soon"}, r"delay='soon' must be"),
        ({"delay": timedelta(seconds=-1)}, r"delay=.* must be"),
        ({"delay": 1, "deliver_at": 5.0}, r"either delay= or deliver_at="),
        ({"deliver_at": 20.0, "expires_at": 20.0}, r"deliver_at=20.0 is not before expires_at=20.0"),
        ({"deliver_at": "tomorrow"}, r"deliver_at has the value 'tomorrow'"),
        ({"expires_at": float("inf")}, r"expires_at"),
        ({"deliver_at": float("nan")}, r"deliver_at"),
        ({"colour": "blue"}, r"unknown field 'colour'; known: .*causation_id"),
        ({"headers": {"a": 1}}, r"headers.a has the value '1'"),
        ({"headers": "a"}, r"headers has the value 'a'"),
        ({"tenant_id": 5}, r"tenant_id has the value '5'"),
        ({"key": ""}, r"key has 0 characters; use 1 to 256"),
        ({"key": "x" * 257}, r"key has 257 characters"),
        ({"session_id": "x" * 257}, r"session_id has 257 characters"),
        ({"id": ""}, r"id has the value ''"),
        ({"id": "x" * 201}, r"id has the value"),
        ({"reply_to": "a b"}, r"invalid topic 'a b'"),
        ({"reply_to": "omnidaemon.x"}, r"reserved"),
        ({"webhook": "https://example.com"}, r"pip install omnidaemon-webhooks"),
    ],
)
def test_fields_that_cannot_be_are_refused_and_nothing_is_sent(sdk, run, fields, says):
    async def main():
        async with sdk:
            with pytest.raises(InvalidEvent, match=says):
                await sdk.publish("t", 1, **fields)
            (outcome,) = await sdk.publish_many([("t", 1, fields)])
            assert isinstance(outcome, InvalidEvent)
            assert await sdk.list_topics() == []

    run(main())


@pytest.mark.parametrize("topic", ["", "a b", "a/b", ".a", "a" * 101, "ü", "a\n", None, 5, "omnidaemon.webhooks"])
def test_invalid_and_reserved_topics_are_refused(sdk, run, topic):
    async def main():
        async with sdk:
            with pytest.raises(InvalidName, match="invalid topic"):
                await sdk.publish(topic, 1)
            assert await sdk.list_topics() == []

    run(main())


def test_the_longest_topic_works(sdk, run):
    async def main():
        async with sdk:
            await sdk.publish("9" + "a._-" * 24 + "Zzz", 1)

    run(main())
