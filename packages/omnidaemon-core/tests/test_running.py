"""How callables and runners are run: loops, threads, generators, contexts (api.md §4, R1)."""

import asyncio
import contextvars
import functools
import threading

import pytest
from pydantic import BaseModel

from omnidaemon import (
    AgentConfig,
    ConfigurationError,
    Context,
    NonRetryable,
    OmniDaemonSDK,
    RetryPolicy,
    TaskFailed,
    current_context,
)


class Upload(BaseModel):
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
