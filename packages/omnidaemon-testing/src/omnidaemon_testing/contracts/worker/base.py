"""How the tests of the whole runtime get their SDKs, agents and faults."""

# pyright: reportPrivateUsage=false
# A worker that vanishes is no part of the SDK.
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from omnidaemon import (
    AgentConfig,
    BackendError,
    Context,
    EventHandle,
    OmniDaemonSDK,
    RetryPolicy,
    SubscriptionConfig,
    TaskError,
)
from omnidaemon.model.run import Group, Outgoing, Receipt
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store
from omnidaemon.runtime import intake
from omnidaemon.runtime.handover import InlineHandover
from omnidaemon.sdk.connections import Connections
from omnidaemon_testing.contracts.base import ContractBase
from omnidaemon_testing.faults import Faulty, Gate

__all__ = ["Run", "WorkerBase", "echo"]

Do = Callable[[dict[str, Any], Context], Awaitable[Any]]


@dataclass(slots=True)
class Run:
    """One start of an agent, as the test saw it; ``end`` is None while it runs."""

    agent: str
    event_id: str
    attempt: int
    begin: float
    content: Any = None
    end: float | None = None
    error: BaseException | None = None


async def echo(message: dict[str, Any], ctx: Context) -> Any:  # noqa: ARG001 - an agent's parameters
    """Return the content: the agent of tests that are not about what it does."""
    return message["content"]


class WorkerBase(ContractBase):
    """Base of the worker rules; see :class:`WorkerContract` for what to override."""

    # A task that ended otherwise than it should, or not at all.
    broken_by = (TaskError,)
    topic = "orders.created"
    runs: list[Run]
    bus_gate: Gate
    store_gate: Gate
    _make_bus: Callable[..., EventBus]
    _make_store: Callable[..., Store]
    _sdks: list[OmniDaemonSDK]

    @pytest.fixture
    def make_bus(self) -> Callable[..., EventBus]:
        """Return a factory of unopened buses; see ``EventBusContract``."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture make_bus, as for EventBusContract")

    @pytest.fixture
    def make_store(self) -> Callable[..., Store]:
        """Return a factory of unopened stores; see ``StoreContract``."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture make_store, as for StoreContract")

    @pytest.fixture(autouse=True)
    def _worker_setup(
        self,
        _contract_setup: None,
        make_bus: Callable[..., EventBus],
        make_store: Callable[..., Store],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A stopping worker waits for its read to end; that wait is no part of any rule.
        monkeypatch.setattr(intake, "READ_WAIT", self.timing.quiet)
        self.use_both(make_bus, make_store)

    def use_both(self, make_bus: Callable[..., EventBus], make_store: Callable[..., Store]) -> None:
        """Take buses and stores from these factories."""
        self._make_bus, self._make_store = make_bus, make_store
        self.runs, self._sdks = [], []
        self.bus_gate, self.store_gate = Gate(), Gate()

    # --- SDKs and agents ------------------------------------------------------------------------------

    def sdk(self, *, namespace: str | None = None, gated: bool = True, **settings: Any) -> OmniDaemonSDK:
        """Return an SDK of its own, as another process would have; faults reach it if ``gated``."""
        place = {} if namespace is None else {"namespace": namespace}
        bus, store = self._make_bus(**place), self._make_store(**place)
        self.facts["event_bus"], self.facts["store"] = bus.capabilities, store.capabilities
        gates = (self.bus_gate, self.store_gate) if gated else (Gate(), Gate())
        behind: Any = (Faulty(bus, gates[0]), Faulty(store, gates[1]))
        settings.setdefault("allow_local_store", True)
        sdk = OmniDaemonSDK(event_bus=behind[0], store=behind[1], **settings)
        if self.loop_factory is not None:
            # A loop that owns time cannot share it with a thread: I/O runs beside the agents.
            sdk.clock = self.clock
            sdk.connections = Connections(sdk.choose, self.clock)
            vars(sdk)["_make_handover"] = lambda: InlineHandover(asyncio.get_running_loop())
        self._closing.push_async_callback(sdk.shutdown, 0.2)
        self._sdks.append(sdk)
        return sdk

    def needs_real_time(self) -> None:
        """Skip where the loop owns time: threads, processes and blocking calls know nothing of it."""
        if self.loop_factory is not None:
            self.not_tried("this run is in virtual time")

    def serve(
        self, sdk: OmniDaemonSDK, do: Do = echo, name: str = "agent", topic: str | None = None, **options: Any
    ) -> None:
        """Declare an agent that writes its runs down and then does what it is to do."""
        options.setdefault("lease", self.timing.lease)
        options.setdefault("retry", RetryPolicy(max_attempts=3, initial=0.02, max=0.05))

        async def callback(message: dict[str, Any], ctx: Context) -> Any:
            run = Run(name, ctx.event.id, ctx.attempt, self.time(), message["content"])
            self.runs.append(run)
            try:
                return await do(message, ctx)
            except BaseException as error:
                run.error = error
                raise
            finally:
                run.end = self.time()

        config = SubscriptionConfig(**options)
        sdk.add_agent(AgentConfig(topic=topic or self.topic, name=name, callback=callback, config=config))

    async def worker(self, do: Do = echo, *, gated: bool = True, settings: Any = None, **options: Any) -> OmniDaemonSDK:
        """Return an SDK whose worker runs one agent."""
        sdk = self.sdk(gated=gated, **(settings or {}))
        self.serve(sdk, do, **options)
        await sdk.start()
        return sdk

    async def vanish(self, sdk: OmniDaemonSDK) -> None:
        """Let an SDK's worker vanish as if its process had been killed."""
        worker, handover = sdk._worker, sdk._handover  # noqa: SLF001 - there is no public way to die
        assert worker is not None
        assert handover is not None
        await handover.call_io(worker.kill())
        await asyncio.to_thread(handover.stop) if self.loop_factory is None else handover.stop()
        sdk._worker = sdk._handover = None  # noqa: SLF001

    # --- events and outcomes ------------------------------------------------------------------------

    async def publish(
        self, sdk: OmniDaemonSDK, count: int, topic: str | None = None, **fields: Any
    ) -> list[EventHandle]:
        """Publish events whose content is their number."""
        items = [(topic or self.topic, number, dict(fields)) for number in range(count)]
        outcomes = await sdk.publish_many(items)
        handles = [outcome for outcome in outcomes if isinstance(outcome, EventHandle)]
        assert len(handles) == count, f"publishing failed: {[one for one in outcomes if one not in handles]}"
        return handles

    async def raw(self, sdk: OmniDaemonSDK, event_id: str, body: bytes, topic: str | None = None) -> None:
        """Put bytes on a topic that no SDK would send."""
        await sdk.connections.get()
        (answer,) = await sdk.event_bus.publish([Outgoing(topic or self.topic, event_id, body)], self.timing.deadline)
        assert isinstance(answer, Receipt)

    async def all_done(
        self, sdk: OmniDaemonSDK, handles: list[EventHandle], agent: str = "agent", within: float = 0.0
    ) -> None:
        """Wait until an agent has an outcome for every event."""
        limit = self.timing.deadline * 2 + within

        async def ended() -> bool:
            try:
                tasks = await self.tasks(sdk, [handle.id for handle in handles], agent)
            except BackendError:
                return False  # what looks on may meet the outage too
            return sum(task["state"] in _FINAL for task in tasks) == len(handles)

        await self.until(ended, f"an outcome of {agent} for each of {len(handles)} events", limit)

    async def tasks(self, sdk: OmniDaemonSDK, event_ids: list[str], agent: str = "agent") -> list[dict[str, Any]]:
        """Return the records of an agent's tasks that there are."""
        found = [await sdk.get_task(f"{event_id}:{agent}") for event_id in event_ids]
        return [task for task in found if task is not None]

    async def state(self, sdk: OmniDaemonSDK, handle: EventHandle, agent: str = "agent") -> str | None:
        """Return the state of a task, None while there is no record."""
        task = await sdk.get_task(f"{handle.id}:{agent}")
        return None if task is None else str(task["state"])

    async def until_state(
        self, sdk: OmniDaemonSDK, handle: EventHandle, state: str, agent: str = "agent", within: float | None = None
    ) -> dict[str, Any]:
        """Wait until a task has that state and return its record."""

        async def reached() -> dict[str, Any] | None:
            task = await sdk.get_task(f"{handle.id}:{agent}")
            return task if task is not None and task["state"] == state else None

        found = await self.until(reached, f"task {handle.id}:{agent} is {state}", within)
        assert found is not None
        return found

    async def until_runs(self, count: int, within: float | None = None) -> list[Run]:
        """Wait until agents have been started that often."""

        async def begun() -> bool:
            return len(self.runs) >= count

        await self.until(begun, f"{count} runs have begun", within)
        return self.runs

    def starts(self, event_id: str, agent: str = "agent") -> int:
        """Return how often an agent was started for an event."""
        return sum(run.event_id == event_id and run.agent == agent for run in self.runs)

    async def group(self, sdk: OmniDaemonSDK, agent: str = "agent") -> Group:
        """Return the group of an agent."""
        return next(row.group for row in await sdk.agent_rows(self.topic) if row.agent == agent)

    def takeover(self) -> float:
        """Return how long D3 gives another worker to take a dead one's events over."""
        return self.timing.lease + 5.0


_FINAL = ("completed", "failed", "canceled", "rejected")
