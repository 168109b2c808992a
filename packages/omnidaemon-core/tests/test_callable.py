"""What may be an agent, and what it is given (api.md §4)."""

import asyncio
import collections.abc
import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel, RootModel

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    Context,
    EventEnvelope,
    TaskFailed,
)

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Upload(BaseModel):
    filename: str


class Uploads(RootModel[list[Upload]]):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Typed(TypedDict):
    filename: str


def returned(sdk, serve, run, callback, content=None, **options):
    """What the callback returns, as the publisher sees it."""
    sdk.add_agent(AgentConfig(topic="t", callback=callback, **{"name": "agent", **options}))

    async def main():
        async with serve(sdk):
            return await (await sdk.publish("t", content)).result(timeout=2)

    return run(main())


async def takes_nothing():
    return "nothing"


async def takes_message(message):
    return message


async def takes_dict(message: dict):
    return message


async def takes_typed_dict(message: dict[str, Any]):
    return message


async def takes_mapping(message: Mapping):
    return message


async def takes_typed_mapping(message: collections.abc.Mapping[str, Any]):
    return message


async def takes_any(message: Any):
    return message


def takes_message_in_a_thread(message):
    return message


async def takes_message_with_a_default(message=None):
    return message


async def takes_all(message, ctx: Context, event: EventEnvelope):
    assert event.content == message["content"]
    assert ctx.event == event
    return message


@pytest.mark.parametrize(
    "callback",
    [
        takes_message,
        takes_dict,
        takes_typed_dict,
        takes_mapping,
        takes_typed_mapping,
        takes_any,
        takes_message_in_a_thread,
        takes_message_with_a_default,
        takes_all,
        lambda message: message,
    ],
)
def test_the_message_dict(sdk, serve, run, callback):
    message = returned(sdk, serve, run, callback, {"a": 1})
    assert message["content"] == {"a": 1}
    assert message["topic"] == "t"
    assert message["agent"] == "agent"
    assert set(message) >= {
        "content", "webhook", "reply_to", "topic", "task_id", "tenant_id", "correlation_id", "causation_id",
        "source", "delivery_attempts", "created_at", "agent",
    }  # fmt: skip


def test_no_parameter_at_all(sdk, serve, run):
    assert returned(sdk, serve, run, takes_nothing) == "nothing"


async def takes_model(upload: Upload):
    assert isinstance(upload, Upload)
    return upload


async def takes_dataclass(point: Point):
    assert isinstance(point, Point)
    return point


async def takes_typeddict(upload: Typed):
    return upload


async def takes_root_model(uploads: Uploads):
    return [upload.filename for upload in uploads.root]


async def takes_annotated(upload: Annotated[Upload, "note"]):
    return upload


async def takes_optional(upload: Upload | None, ctx: Context | None = None, event: EventEnvelope | None = None):
    assert ctx is not None
    assert event is not None
    return upload


@pytest.mark.parametrize(
    ("callback", "content", "value"),
    [
        (takes_model, {"filename": "a"}, {"filename": "a"}),
        (takes_dataclass, {"x": 1}, {"x": 1, "y": 0}),
        (takes_typeddict, {"filename": "a"}, {"filename": "a"}),
        (takes_root_model, [{"filename": "a"}], ["a"]),
        (takes_annotated, {"filename": "a"}, {"filename": "a"}),
        (takes_optional, {"filename": "a"}, {"filename": "a"}),
        (takes_optional, None, None),
    ],
)
def test_typed_content_is_validated_and_what_is_returned_is_dumped(sdk, serve, run, callback, content, value):
    assert returned(sdk, serve, run, callback, content) == value


@pytest.mark.parametrize("callback", [takes_model, takes_dataclass, takes_typeddict])
def test_content_that_does_not_fit_is_a_dead_letter_without_a_retry(sdk, serve, run, callback):
    sdk.agent("t", name="agent")(callback)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"filename": 5, "x": "no"})
            with pytest.raises(
                TaskFailed, match=r"content does not fit '\w+': (filename|x): Input should be"
            ) as caught:
                await event.result(timeout=1)
            assert caught.value.reason == "invalid_content"
            assert caught.value.attempts == 1

    run(main())


async def two_contents(a: Upload, b: dict): ...


async def two_untyped(a, b): ...


async def a_number(a: int): ...


async def a_list(a: list[Upload]): ...


async def unresolvable(a: "Unknown"): ...


async def positional(a, /): ...


async def a_union(a: Upload | int): ...


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (two_contents, r"two_contents .*several content parameters \(a, b\); keep one"),
        (two_untyped, r"two_untyped .*several content parameters \(a, b\); keep one"),
        (
            a_number,
            r"a_number .*parameter 'a' is annotated <class 'int'>; use Context, EventEnvelope, a pydantic model",
        ),
        (a_list, r"parameter 'a' is annotated list\[.*Upload\]; use"),
        (unresolvable, r"annotations of <function unresolvable.* cannot be resolved: name 'Unknown' is not defined"),
        (positional, r"takes 'a' by position only; make it an ordinary parameter"),
        (a_union, r"parameter 'a' is annotated .*; use"),
    ],
)
def test_parameters_that_cannot_be_are_refused_at_registration(sdk, callback, says):
    with pytest.raises(ConfigurationError, match=says):
        sdk.agent("t")(callback)
    with pytest.raises(ConfigurationError, match=says):
        sdk.add_agent(AgentConfig(topic="t", callback=callback))
    with pytest.raises(ConfigurationError, match=says):
        asyncio.run(sdk.register_agent(AgentConfig(topic="t", callback=callback)))
    assert sdk.agents == []


async def returns_unknown(message) -> "Unknown":
    return message["content"]


async def needs_a_service(upload: Upload, service: threading.Thread, *, retries: int = 3):
    return [upload.filename, service.name, retries]


async def has_own_defaults(message, depth: int = 2, db=None, *args: int, **kwargs: "Unknown"):
    return [message["content"], depth, db, args, kwargs]


def test_only_annotations_of_parameters_are_looked_at(sdk, serve, run):
    assert returned(sdk, serve, run, returns_unknown, 5) == 5


def test_what_a_partial_binds_is_not_asked_for(sdk, serve, run):
    bound = functools.partial(needs_a_service, service=threading.Thread(name="db"))
    assert returned(sdk, serve, run, bound, {"filename": "a"}) == ["a", "db", 3]


def test_parameters_with_defaults_are_the_users_own(sdk, serve, run):
    assert returned(sdk, serve, run, has_own_defaults, 5) == [5, 2, None, [], {}]


def test_a_partial_is_named_after_its_function(sdk):
    sdk.agent("t")(functools.partial(needs_a_service, service=threading.Thread()))
    sdk.agent("u")(functools.partial(functools.partial(takes_message)))
    assert [config.name for config in sdk.agents] == ["needs_a_service", "takes_message"]


class Counter:
    def __init__(self):
        self.seen = []

    async def __call__(self, message):
        self.seen.append(message["content"])
        return len(self.seen)

    async def method(self, message):
        return message["content"]

    @classmethod
    async def of_class(cls, upload: Upload):
        return [cls.__name__, upload.filename]

    @staticmethod
    def static():
        return threading.current_thread() is threading.main_thread()


def test_objects_and_methods_are_callables_too(sdk, serve, run):
    counter = Counter()
    for topic, callback in (("a", counter), ("b", counter.method), ("c", Counter.of_class), ("d", Counter.static)):
        sdk.agent(topic)(callback)
    assert [config.name for config in sdk.agents] == ["Counter", "method", "of_class", "static"]

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("a", 1)).result(timeout=1) == 1
            assert await (await sdk.publish("b", 2)).result(timeout=1) == 2
            assert await (await sdk.publish("c", {"filename": "x"})).result(timeout=1) == ["Counter", "x"]
            assert await (await sdk.publish("d", 2)).result(timeout=1) is False

    run(main())
