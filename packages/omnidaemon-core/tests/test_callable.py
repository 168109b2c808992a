"""What may be an agent, and what it is given (api.md §4)."""

import asyncio
import collections.abc
import contextvars
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
    NonRetryable,
    OmniDaemonSDK,
    RetryPolicy,
    TaskFailed,
    current_context,
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


async def async_generator(message):
    for number in range(message["content"]):
        yield {"n": number}
        await asyncio.sleep(0)


def generator(message):
    assert threading.current_thread() is not threading.main_thread()
    yield from range(message["content"])


@pytest.mark.parametrize("isolation", [None, "inline", "thread"])
@pytest.mark.parametrize("callback", [async_generator, generator])
def test_a_generators_items_are_partial_output_and_a_list_of_them_the_value(sdk, serve, run, callback, isolation):
    if callback is generator and isolation == "inline":
        pytest.skip("the generator asks for a thread")
    sdk.add_agent(AgentConfig(topic="t", callback=callback, isolation=isolation))

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 3)
            chunks = [entry["chunk"] async for entry in event.task().progress()]
            assert chunks == await event.result(timeout=1)
            assert len(chunks) == 3

    run(main())


def test_a_plain_generator_inline(sdk, serve, run):
    def items():
        yield 1
        yield 2

    assert returned(sdk, serve, run, items, isolation="inline") == [1, 2]


def test_a_generator_that_fails_half_way_is_retried(sdk, serve, run):
    tries = []

    @sdk.agent("t", retry=RetryPolicy(initial=0.001))
    async def work():
        tries.append(1)
        yield len(tries)
        if len(tries) == 1:
            raise OSError

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            assert await event.result(timeout=1) == [2]
            chunks = [(entry["attempt"], entry["chunk"]) async for entry in event.task().progress()]
            assert chunks == [(1, 1), (2, 2)]

    run(main())


def where():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = False
    else:
        loop = True
    return [threading.current_thread() is threading.main_thread(), loop]


def test_sync_functions_run_in_threads_and_coroutines_on_the_loop(sdk, serve, run):
    @sdk.agent("sync")
    def sync():
        return where()

    @sdk.agent("async")
    async def coroutine():
        return where()

    @sdk.agent("threaded", isolation="thread")
    async def threaded():
        return where()

    @sdk.agent("inline", isolation="inline")
    def inline():
        return where()

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("sync")).result(timeout=1) == [False, False]
            assert await (await sdk.publish("async")).result(timeout=1) == [True, True]
            assert await (await sdk.publish("threaded")).result(timeout=1) == [False, True]
            assert await (await sdk.publish("inline")).result(timeout=1) == [True, True]

    run(main())


def test_a_wrapper_that_returns_a_coroutine_shares_the_agents_loop(sdk, serve, run):
    """As decorators do that were written for both kinds of functions."""
    loops = []

    def timed(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @sdk.agent("t")
    @timed
    async def work(upload: Upload):
        loops.append(asyncio.get_running_loop())
        return upload.filename

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t", {"filename": "a"})).result(timeout=1) == "a"
            assert loops == [asyncio.get_running_loop()]

    run(main())


def test_a_sync_wrapper_around_a_coroutine_function_runs_in_a_thread(sdk, serve, run):
    """As asgiref's async_to_sync does: it would block the loop, or fail there."""

    async def inner(message):
        return message["content"]

    @functools.wraps(inner)
    def blocking(message):
        return asyncio.run(inner(message))

    assert returned(sdk, serve, run, blocking, 7) == 7


def test_an_async_wrapper_around_a_sync_function(sdk, serve, run):
    def inner(message):
        return message["content"]

    @functools.wraps(inner)
    async def wrapper(message):
        return inner(message)

    assert returned(sdk, serve, run, wrapper, 7) == 7


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_current_context_deep_inside_tools_and_threads(sdk, serve, run):
    seen = {}

    def tool(name):
        seen[name] = current_context()

    @sdk.agent("async")
    async def coroutine(ctx: Context):
        tool("inline")
        await asyncio.to_thread(tool, "to_thread")
        await asyncio.gather(asyncio.to_thread(tool, "gathered"))
        await ctx.step("s", tool, "step")
        assert all(context is ctx for context in seen.values())
        return sorted(seen)

    @sdk.agent("sync")
    def blocking(ctx: Context):
        assert current_context() is ctx
        current_context().usage(tokens=3)
        asyncio.run(current_context().progress("from a thread"))
        return ctx.agent

    async def main():
        async with serve(sdk):
            assert len(await (await sdk.publish("async")).result(timeout=1)) == 4
            event = await sdk.publish("sync")
            assert await event.result(timeout=1) == "blocking"
            record = await event.task().info()
            assert record["usage"] == {"tokens": 3}
            assert [entry["message"] async for entry in event.task().progress()] == ["from a thread"]
        with pytest.raises(LookupError, match="outside of an agent's run"):
            current_context()

    run(main())


def test_every_run_has_its_own_context(sdk, serve, run):
    @sdk.agent("t")
    async def work(message):
        variable.set(str(message["content"]))
        await asyncio.sleep(0.01)
        return [variable.get(), current_context().event.content]

    async def main():
        async with serve(sdk):
            events = [await sdk.publish("t", number) for number in range(5)]
            for number, event in enumerate(events):
                assert await event.result(timeout=1) == [str(number), number]
        assert variable.get() == "unset"

    run(main())


def test_a_sync_agent_may_ask_and_step_and_publish(sdk, serve, run, eventually):
    calls = []

    @sdk.agent("t")
    def work(ctx: Context):
        value = asyncio.run(ctx.step("s", lambda: calls.append(1) or len(calls)))
        asyncio.run(ctx.publish("u", "follow"))
        return [value, asyncio.run(ctx.ask("k", "?"))]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")

            async def asked():
                return (await sdk.list_tasks(state="input_required"))["tasks"]

            await eventually(asked)
            assert [entry["topic"] for entry in await sdk.list_topics()] == ["t"]
            await event.task("work").answer("k", "yes")
            assert await event.result(timeout=1) == [1, "yes"]
            assert len(calls) == 1
            await eventually(lambda: sdk.inspect_topic("u"))

    run(main())


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError(), StopIteration(5)])
@pytest.mark.parametrize("isolation", ["inline", "thread"])
def test_an_agent_that_raises_what_is_no_error_fails_and_harms_nobody(sdk, serve, run, isolation, error):
    @sdk.agent("t", isolation=isolation, retry=RetryPolicy(max_attempts=1))
    def work():
        raise error

    @sdk.agent("fine")
    async def fine():
        return 1

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            with pytest.raises(TaskFailed) as caught:
                await event.result(timeout=1)
            assert caught.value.attempts == 1
            assert await (await sdk.publish("fine")).result(timeout=1) == 1

    run(main())


class Odd:
    """Has neither a name nor a runner."""


class Runs:
    """A runner of one's own, used as it is."""

    port_version = 1

    def __init__(self):
        from omnidaemon.ports.runner import RunnerCapabilities

        self.capabilities = RunnerCapabilities(name="mine")
        self.events = []

    async def open(self):
        self.events.append("open")

    async def run(self, event, context):
        from omnidaemon.ports.runner import Done

        self.events.append(event.content)
        if event.content == "bad":
            raise NonRetryable("no")
        return Done(Upload(filename=context.agent))

    async def close(self, grace):
        assert grace >= 0
        self.events.append("close")


def test_a_runner_is_used_as_it_is_and_opened_and_closed(sdk, serve, run):
    runner, late = Runs(), Runs()
    sdk.add_agent(AgentConfig(topic="t", agent=runner, name="mine"))

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t", 1)).result(timeout=1) == {"filename": "mine"}
            with pytest.raises(TaskFailed, match="NonRetryable: no"):
                await (await sdk.publish("t", "bad")).result(timeout=1)
            await sdk.register_agent(AgentConfig(topic="u", agent=late, name="late"))
            assert await (await sdk.publish("u", 2)).result(timeout=1) == {"filename": "late"}
        assert runner.events == ["open", 1, "bad", "close"]
        assert late.events == ["open", 2, "close"]

    run(main())


def test_agent_takes_a_plain_function_too(sdk, serve, run):
    sdk.add_agent(AgentConfig(topic="t", agent=takes_nothing))

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t")).result(agent="takes_nothing", timeout=1) == "nothing"

    run(main())


def test_an_object_that_no_runner_takes():
    sdk = OmniDaemonSDK()
    with pytest.raises(
        ConfigurationError, match=r"agent 'odd' is a .*Odd, and no installed runner takes it .*callback="
    ):
        sdk.add_agent(AgentConfig(topic="t", agent=Odd(), name="odd"))
    with pytest.raises(ConfigurationError, match=r"has no name of its own: give AgentConfig\(name=\.\.\.\)"):
        sdk.add_agent(AgentConfig(topic="t", agent=Odd()))
