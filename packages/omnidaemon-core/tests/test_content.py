"""What content, results and everything else that users hand over may hold (design §4, P6, S8)."""

import asyncio
import collections
import dataclasses
import enum
import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from omnidaemon import Context, EventEnvelope, InvalidContent, OmniDaemonSDK, PayloadBase, TaskFailed
from omnidaemon.model import jsontext
from omnidaemon.model.envelope import decode, encode
from omnidaemon_memory import MemoryEventBus, MemoryStore


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    value: Any


class Number(BaseModel):
    value: float


@dataclasses.dataclass
class Data:
    value: Any


class Colour(enum.Enum):
    RED = "red"


cycle: list[Any] = []
cycle.append({"again": cycle})

BAD = {
    "NaN": (float("nan"), "JSON"),
    "infinity inside": ({"a": [float("-inf")]}, "JSON"),
    "NUL": ("a\x00b", "NUL"),
    "NUL in a key": ({"a\x00": 1}, "NUL"),
    "a lone surrogate": ("\ud800", "lone surrogate"),
    "a lone surrogate in a key": ({"\udfff": 1}, "lone surrogate"),
    "depth 101": (nested(101), "nested deeper than 100; flatten it"),
    "depth 5,000": (nested(5_000), "nested deeper than 100; flatten it"),
    "an integer key": ({1: 2}, "the key 1, and JSON keys are strings"),
    "a None key": ({"a": [{None: 2}]}, "the key None, and JSON keys are strings"),
    "a tuple key": ({(1, 2): 2}, "key .*, and JSON keys are strings"),
    "bytes": (b"raw", "bytes, which JSON has no type for; convert it"),
    "a set": ({"a": {1}}, "set, which JSON has no type for"),
    "a datetime": ([datetime(2026, 1, 1, tzinfo=UTC)], "datetime, which JSON has no type for"),
    "a decimal": (Decimal(1), "Decimal, which JSON has no type for"),
    "an enum": ({"a": Colour.RED}, "Colour, which JSON has no type for"),
    "a cycle": (cycle, "[Cc]ircular|nested deeper"),
    "a number too long to print": (10**5000, "JSON"),
    "a function": (len, "which JSON has no type for"),
    "an object": ({"a": object()}, "object, which JSON has no type for"),
    "a model that holds a lock": (Holder(value=threading.Lock()), "JSON"),
    "a dataclass that holds a lock": (Data(threading.Lock()), "JSON"),
    "a dataclass that holds a generator": ([Data(x for x in ())], "JSON"),
    "a model that holds raw bytes": (Holder(value=b"\xff"), "JSON"),
    "a model that holds NaN": (Number(value=float("nan")), "JSON"),
    "a model class": (Holder, "JSON"),
    "a coroutine function": (asyncio.sleep, "JSON"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_content_that_would_not_come_back_is_refused_and_nothing_is_sent(sdk, run, content, says):
    async def main():
        async with sdk:
            with pytest.raises(InvalidContent, match=says) as caught:
                await sdk.publish("t", content)
            assert len(str(caught.value)) < 500
            (outcome,) = await sdk.publish_many([("t", content)])
            assert isinstance(outcome, InvalidContent)
            with pytest.raises(InvalidContent, match=says):
                await sdk.save_config("k", content)
            assert await sdk.list_topics() == []
            assert await sdk.get_config("k") is None

    run(main())


def test_every_bad_result_is_one_dead_letter_with_its_reason(sdk, serve, run):
    """Not a loop: it runs once, and says what could not be kept."""
    ran: collections.Counter[str] = collections.Counter()

    @sdk.agent("t")
    async def work(message):
        ran[message["content"]] += 1
        return BAD[message["content"]][0]

    async def main():
        async with serve(sdk):
            events = {name: await sdk.publish("t", name) for name in BAD}
            for name, event in events.items():
                with pytest.raises(TaskFailed, match=f"InvalidContent: the result.*({BAD[name][1]})") as caught:
                    await event.result(timeout=2)
                assert (name, caught.value.reason, caught.value.attempts) == (name, "unserializable_result", 1)
            assert len(await sdk.dead_letters(agent="work")) == len(BAD)
        assert set(ran.values()) == {1}

    run(main())


async def _never() -> None:
    raise AssertionError


HANDED_OVER = {
    "a follow-up": lambda ctx: ctx.publish("u", {"a": [float("nan")]}),
    "progress": lambda ctx: ctx.progress(data=float("nan")),
    "partial output": lambda ctx: ctx.emit({"a": {1}}),
    "a step's value": lambda ctx: ctx.step("s", lambda: float("nan")),
    "a step's name": lambda ctx: ctx.step("", _never),
    "a step's long name": lambda ctx: ctx.step("x" * 201, _never),
    "a step's name with NUL": lambda ctx: ctx.step("\x00", _never),
    "usage": lambda ctx: ctx.usage(tokens=float("nan")),
    "usage that is no number": lambda ctx: ctx.usage(tokens="many"),
    "a question": lambda ctx: ctx.ask("k", "\x00"),
    "a question's name": lambda ctx: ctx.ask(5, "?"),
    "a question's schema": lambda ctx: ctx.ask("k", "?", schema={"a": b""}),
}


@pytest.mark.parametrize("what", HANDED_OVER)
def test_what_an_agent_hands_over_is_checked_too(sdk, serve, run, what):
    @sdk.agent("t")
    async def work(ctx: Context):
        await HANDED_OVER[what](ctx)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            with pytest.raises(TaskFailed, match="InvalidContent") as caught:
                await event.result(timeout=2)
            assert caught.value.attempts == 1
            assert len(await sdk.dead_letters(topic="t")) == 1
            assert await sdk.list_topics() == [{"topic": "t", "length": 1}]

    run(main())


def test_an_answer_is_checked_and_the_question_stays_open(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def work(ctx: Context):
        return await ctx.ask("k", "?")

    async def main():
        async with serve(sdk):
            task = (await sdk.publish("t", 1)).task("work")

            async def asked():
                return (await sdk.list_tasks(state="input_required"))["tasks"]

            await eventually(asked)
            with pytest.raises(InvalidContent, match=r"the answer holds a builtins\.set"):
                await task.answer("k", {1, 2})
            await task.answer("k", {"fine": [Data(1)]})
            assert await task.result(timeout=1) == {"fine": [{"value": 1}]}

    run(main())


def test_depth_100_is_fine_for_content_and_results_and_replies(sdk, serve, run):
    @sdk.agent("t")
    async def echo(message):
        return message["content"]

    @sdk.agent("replies")
    async def reply(message):
        return message["content"]

    async def main():
        async with serve(sdk):
            for deep in (nested(100), {"a": nested(99)}):
                event = await sdk.publish("t", deep, reply_to="replies")
                assert await event.result(timeout=1) == deep
            await asyncio.sleep(0.05)
            assert len((await sdk.list_tasks(agent="reply"))["tasks"]) == 2

    run(main())


def test_nested_mappings_and_models_become_plain_data(sdk, run):
    async def main():
        async with sdk:
            await sdk.publish("t", {"a": MappingProxyType({"b": (Holder(value=1), Data([2]))})})
            (entry,) = await sdk.inspect_topic("t")
            assert entry["data"]["payload"]["content"] == {"a": {"b": [{"value": 1}, {"value": [2]}]}}

    run(main())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_value_comes_back_the_same(value):
    event = EventEnvelope(topic="t", payload=PayloadBase(content=value))
    assert same(decode(encode(event)).content, value)
    assert same(jsontext.load(jsontext.dump(value)), value)


@given(st.recursive(json_values | st.binary() | st.dates() | st.floats(), lambda inner: st.lists(inner, max_size=3)))
def test_a_value_comes_back_the_same_or_is_refused(value):
    try:
        data = jsontext.dump(value)
    except InvalidContent:
        return
    assert same(jsontext.load(data), value)


def same(one: Any, other: Any) -> bool:
    """Equal in value, type and order of keys; 1 is not 1.0, 0.0 is not -0.0."""
    return json.dumps(one) == json.dumps(other) and repr(one) == repr(other)


def test_a_large_result_is_a_dead_letter_with_that_reason(serve, run):
    sdk = OmniDaemonSDK(event_bus=MemoryEventBus(), store=MemoryStore(), max_event_bytes=2000)

    @sdk.agent("result")
    async def result():
        return "x" * 2000

    @sdk.agent("reply")
    async def reply():
        return "x" * 1900

    @sdk.agent("followup")
    async def followup(ctx: Context):
        await ctx.publish("u", "x" * 2000)

    @sdk.agent("progress")
    async def progress(ctx: Context):
        await ctx.progress("x" * 2000)

    @sdk.agent("step")
    async def step(ctx: Context):
        await ctx.step("s", lambda: "x" * 2000)

    @sdk.agent("ask")
    async def ask(ctx: Context):
        await ctx.ask("k", "x" * 2000)

    async def main():
        async with serve(sdk):
            for topic in ("result", "reply", "followup", "progress", "step", "ask"):
                event = await sdk.publish(topic, 1, reply_to="replies")
                with pytest.raises(TaskFailed, match=r"max_event_bytes is 2000") as caught:
                    await event.result(timeout=2)
                assert (topic, caught.value.reason, caught.value.attempts) == (topic, "too_large", 1)
            assert {entry["topic"] for entry in await sdk.list_topics()}.isdisjoint({"u", "replies"})

    run(main())
