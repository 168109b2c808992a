"""``RunnerContract``: what every runner keeps (R1 to R9)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from omnidaemon.model.envelope import EventEnvelope, PayloadBase
from omnidaemon.model.errors import NonRetryable, OmniDaemonError, RetryAfter
from omnidaemon.ports.event_bus import PORT_VERSION
from omnidaemon.ports.runner import Done, Runner
from omnidaemon.runtime.signals import AskSignal
from omnidaemon_testing.content import CORNERS
from omnidaemon_testing.contracts.base import ContractBase
from omnidaemon_testing.contracts.leftovers import Leftovers
from omnidaemon_testing.recording import RecordingContext

__all__ = ["RunnerContract"]


class RunnerContract(ContractBase):
    """The rules of a runner, one test each.

    Inherit it and override one fixture. The factory gets the name of a behaviour and returns an
    unopened runner whose agent, made with the framework's own fake model, behaves so:

    ``echo``
        returns the event's content.
    ``fail``, ``busy``, ``hopeless``
        raises an error of its own; what becomes ``RetryAfter(7)``; what becomes ``NonRetryable``.
    ``stream``
        emits the chunks 0 to 4 in that order as partial output, and returns ``"done"``.
    ``block``
        reports progress again and again, and ends only when it is cancelled.
    ``usage``
        reports ``input_tokens=3`` and ``output_tokens=5``.
    ``ask``
        asks ``ctx.ask("ship", ...)``, inside an ``except Exception``, and returns the answer.

    For one that the framework does not have it raises ``NotImplementedError`` with the reason; the
    report then says that the rule was not tried.
    """

    _make_runner: Callable[[str], Runner]

    @pytest.fixture
    def make_runner(self) -> Callable[[str], Runner]:
        """Return a factory of unopened runners by behaviour."""
        raise NotImplementedError(
            f"{type(self).__name__} must override the fixture make_runner:\n\n"
            "    @pytest.fixture\n"
            "    def make_runner(self):\n"
            "        return lambda behaviour: YourRunner(AGENTS[behaviour])\n"
        )

    @pytest.fixture(autouse=True)
    def _runner_setup(self, _contract_setup: None, make_runner: Callable[[str], Runner]) -> None:
        self._make_runner = make_runner

    def make(self, behaviour: str) -> Runner:
        """Return an unopened runner."""
        try:
            runner = self._make_runner(behaviour)
        except NotImplementedError as missing:
            self.not_tried(f"make_runner has no {behaviour!r}: {missing}")
        self.facts["runner"] = runner.capabilities
        return runner

    async def open(self, behaviour: str) -> Runner:
        """Return an open runner that is closed when the test ends."""
        runner = self.make(behaviour)
        await runner.open()
        self._closing.push_async_callback(runner.close, 1.0)
        return runner

    def context(self, content: Any = "hello", number: int = 1, **answers: Any) -> RecordingContext:
        """Return the context of an event."""
        event = EventEnvelope(id=f"e{number}", topic="orders.created", payload=PayloadBase(content=content))
        return RecordingContext(event, answers=answers)

    async def run(self, runner: Runner, context: RecordingContext) -> Any:
        """Run an event and return the value as plain data."""
        done = await runner.run(context.event, context)
        assert isinstance(done, Done), f"run returned a {type(done).__name__}"
        return _plain(done.value)

    async def test_r1_a_run_returns_what_the_agent_returns(self) -> None:
        """Whatever kind of object the agent is, ``run`` gives its value in a ``Done``.

        Trouble-shooting: await what is awaitable, and drain what is a generator.
        """
        runner = await self.open("echo")
        assert await self.run(runner, self.context("hello")) == "hello"

    async def test_r2_content_is_mapped_both_ways(self) -> None:
        """Any JSON content reaches the agent and comes back as JSON.

        Trouble-shooting: a framework that takes text gets the content as JSON text, not ``str(dict)``.
        """
        runner = await self.open("echo")
        for name in ("unicode", "escapes", "order", "keys", "empty", "markup", "list"):
            value = await self.run(runner, self.context(CORNERS[name]))
            if isinstance(value, str) and not isinstance(CORNERS[name], str):
                value = json.loads(value)
            assert value == CORNERS[name], f"the content with {name} was changed"

    async def test_r3_usage_is_reported(self) -> None:
        """Tokens that the agent used are in the context when the run has ended.

        Trouble-shooting: read the framework's usage from its result, also from a failed one.
        """
        runner = await self.open("usage")
        context = self.context()
        await self.run(runner, context)
        assert context.used.get("input_tokens") == 3
        assert context.used.get("output_tokens") == 5

    async def test_r4_partial_output_comes_in_order(self) -> None:
        """What the agent emits on its way arrives in order and before ``run`` returns.

        Trouble-shooting: await ``context.emit``; do not collect in a task of its own.
        """
        runner = await self.open("stream")
        if not runner.capabilities.streams:
            self.absent(runner, "streams")
        context = self.context()
        await self.run(runner, context)
        text = json.dumps(context.entries)
        places = [text.find(str(number)) for number in range(5)]
        assert places == sorted(places), f"chunks out of order: {context.entries}"
        assert places[0] >= 0, f"no partial output came: {context.entries}"

    async def test_r5_runs_side_by_side_do_not_mix(self) -> None:
        """One runner serves many runs at the same time; each gets its own event and context.

        Trouble-shooting: keep nothing of a run on the runner or on the agent object.
        """
        runner = await self.open("echo")
        contexts = [self.context(f"content {number}", number) for number in range(20)]
        values = await asyncio.gather(*(self.run(runner, context) for context in contexts))
        assert values == [f"content {number}" for number in range(20)]

    async def test_r6_a_question_unwinds_the_run(self) -> None:
        """What ``ask`` raises comes out of ``run`` unchanged, and with an answer the run goes through.

        Trouble-shooting: it is a ``BaseException``; look for ``except:`` and for the framework's own net.
        """
        runner = await self.open("ask")
        async with self.refusal(AskSignal):
            await self.run(runner, self.context())
        assert await self.run(runner, self.context(ship="yes")) == "yes"

    async def test_r7_errors_become_ours(self) -> None:
        """What may be tried again is an ``Exception``, a rate limit ``RetryAfter``, the rest ``NonRetryable``.

        Trouble-shooting: map the framework's errors where ``run`` calls it.
        """
        runner = await self.open("fail")
        async with self.refusal(Exception) as caught:
            await self.run(runner, self.context())
        assert not isinstance(caught.error, (RetryAfter, NonRetryable)), f"a passing error became {caught.error!r}"

    async def test_r7_a_rate_limit_says_when(self) -> None:
        """A rate limit that names a time is ``RetryAfter`` with that time.

        Trouble-shooting: look for the ``retry-after`` of the answer.
        """
        runner = await self.open("busy")
        async with self.refusal(RetryAfter) as caught:
            await self.run(runner, self.context())
        assert isinstance(caught.error, RetryAfter)
        assert caught.error.seconds == 7

    async def test_r7_what_cannot_succeed_is_not_retried(self) -> None:
        """An error that trying again cannot mend is ``NonRetryable``.

        Trouble-shooting: wrong credentials, an unknown model, a refused request.
        """
        runner = await self.open("hopeless")
        async with self.refusal(NonRetryable):
            await self.run(runner, self.context())

    async def test_r8_cancelling_reaches_the_agent(self) -> None:
        """Cancelling ``run`` ends it soon with ``CancelledError``, and the agent does nothing more.

        Trouble-shooting: do not shield the framework's task, and stop what it has started.
        """
        runner = await self.open("block")
        if not runner.capabilities.cancellable:
            self.absent(runner, "cancellable")
        context = self.context()
        running = asyncio.create_task(runner.run(context.event, context))

        async def begun() -> bool:
            return bool(context.entries) or running.done()

        await self.until(begun, "the agent's first progress")
        assert not running.done(), f"the agent ended by itself: {running}"
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=self.timing.deadline)
        assert done, "cancelling did not end the run"
        assert running.cancelled(), f"cancelling gave {running}"
        seen = len(context.entries)
        await self.sleep(self.timing.quiet)
        assert len(context.entries) == seen, "the agent went on after it was cancelled"

    async def test_r9_nothing_talks_to_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run whose agent needs no network opens no connection: no telemetry unless asked for.

        Trouble-shooting: switch the framework's tracing off in the runner's ``open``.
        """
        tried: list[object] = []

        def connect(_: socket.socket, address: object) -> None:
            tried.append(address)
            raise OSError("the contract allows no connection")

        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket.socket, "connect_ex", connect)
        runner = await self.open("echo")
        await self.run(runner, self.context())
        await self.sleep(self.timing.quiet)
        assert not tried, f"connections to {tried}"

    async def test_l3_nothing_outlives_close(self) -> None:
        """After ``close`` no task, thread or open file of the runner is left; closing twice is fine.

        Trouble-shooting: close the framework's HTTP clients.
        """
        leftovers = Leftovers(self.timing)
        runner = self.make("echo")
        await runner.open()
        await self.run(runner, self.context())
        await runner.close(1.0)
        await runner.close(1.0)
        await leftovers.assert_none()

    async def test_port_the_runner_describes_itself(self) -> None:
        """Version and capabilities are there before ``open``, and an error of a run is never swallowed.

        Trouble-shooting: compare with ``Runner`` in ``omnidaemon.ports``.
        """
        runner = self.make("fail")
        assert runner.port_version == PORT_VERSION
        assert runner.capabilities.name
        await runner.open()
        try:
            async with self.refusal(Exception) as caught:
                await self.run(runner, self.context())
            assert isinstance(caught.error, OmniDaemonError) or str(caught.error), "the error says nothing"
        finally:
            await runner.close(1.0)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
