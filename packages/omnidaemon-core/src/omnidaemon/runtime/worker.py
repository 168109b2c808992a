"""The engine of a process: wires intake, settlement, leases, relay, control and janitor together."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from omnidaemon.model.agent import AgentConfig
from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.runner import Runner
from omnidaemon.ports.store import Put, Store
from omnidaemon.runtime.connecting import connect
from omnidaemon.runtime.context import Surroundings
from omnidaemon.runtime.control import Control
from omnidaemon.runtime.execution import Execution, Report
from omnidaemon.runtime.flags import WORKERS
from omnidaemon.runtime.handover import Handover, Mailbox
from omnidaemon.runtime.intake import Intake
from omnidaemon.runtime.janitor import Janitor
from omnidaemon.runtime.leases import Leases
from omnidaemon.runtime.outcome import Outcomes
from omnidaemon.runtime.registration import Registration
from omnidaemon.runtime.relay import Relay
from omnidaemon.runtime.settlement import Settlement
from omnidaemon.runtime.state import WorkerState
from omnidaemon.settings import Settings

__all__ = ["Worker"]

_logger = logging.getLogger("omnidaemon.worker")
# How long after the grace period refused runs have to unwind and be handed back.
UNWIND = 2.0


class Worker:
    """Runs in the I/O loop of its handover; agents run in the other one."""

    def __init__(
        self,
        bus: EventBus,
        store: Store,
        settings: Settings,
        handover: Handover,
        *,
        clock: Clock | None = None,
        connect_timeout: float = 30.0,
        lifespan_state: Any = None,
        name: str | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._connect_timeout = connect_timeout
        self.name = name or f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.state = WorkerState(self.name, bus, store, None, self._clock, settings, handover)
        self.outcomes = Outcomes(settings, self.name, self._clock)
        self.registration = Registration(self.state)
        self.intake = Intake(self.state, self.outcomes)
        self.settlement = Settlement(self.state, self.intake)
        self.leases = Leases(self.state)
        self.relay = Relay(self.state)
        self.control = Control(self.state)
        self.janitor = Janitor(self.state)
        self._reports = Mailbox(handover.io_loop, self._receive)
        ordered = bus.capabilities.ordered_by_key
        around = Surroundings(store, self.state.insist, handover, settings, lifespan_state, ordered)
        self.execution = Execution(around, self.outcomes, self._reports.put_all)
        self.state.to_agents = Mailbox(handover.app_loop, self.execution.receive)
        self._tasks: list[asyncio.Task[None]] = []
        self._intake_tasks: list[asyncio.Task[None]] = []

    async def start(self, agents: Sequence[tuple[AgentConfig, Runner]]) -> None:
        """Connect, register the agents, and begin.

        Raises:
            BackendError: Bus or store cannot be reached, or refuse.
            UnsupportedCapability: An agent asks for what the bus cannot do.
        """
        state = self.state
        try:
            await connect(state.bus, self._connect_timeout, self._clock)
            await connect(state.store, self._connect_timeout, self._clock)
            state.fusion = state.store.fuse(state.bus)
            await self.registration.add(agents)
        except BaseException:
            await self._close_backends()
            raise
        state.idle.set()
        state.connected()
        # Flags are read before the first event is: a paused agent must not run one.
        await self.control.look()
        loops = [self.settlement.run, self.leases.run, self.relay.run, self.control.run, self.janitor.run]
        self._tasks = [self._supervised(loop) for loop in loops]
        self._intake_tasks = [self._supervised(loop) for loop in (self.intake.fresh, self.intake.inbox)]

    async def add(self, config: AgentConfig, runner: Runner) -> None:
        """Register one more agent and serve it from now on."""
        await self.registration.add([(config, runner)])
        await self.control.look(anew=True)

    def stop_intake(self) -> None:
        """Read and claim nothing more."""
        self.state.stopping = True
        for event in (self.state.wake_intake, self.state.wake_due):
            event.set()

    async def stop(self, grace: float) -> None:
        """Drain: stop intake, finish within ``grace`` seconds, settle, hand the rest back (L1, M12)."""
        state = self.state
        self.stop_intake()
        deadline = self._clock.monotonic() + grace
        # Calls in flight may hold grants: wait for them before counting what is left (M12).
        await self._ended(self._intake_tasks, max(grace, UNWIND))
        self._abort("unstarted")
        while state.jobs and self._clock.monotonic() < deadline:
            await self._clock.wait(state.idle, max(0.01, deadline - self._clock.monotonic()))
        if state.jobs:
            self._abort("handback")
            await self._clock.wait(state.idle, UNWIND)
        for job in [job for job in state.jobs.values() if job.outcome is None]:
            # A thread that cannot be stopped: its claim is handed back now, its outcome will be refused.
            state.finish(job, self.outcomes.handback(job))
        await self._flush()
        state.closing = True
        for name in ("wake_settle", "wake_leases", "wake_relay", "wake_control", "wake_janitor"):
            getattr(state, name).set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave()

    async def _ended(self, tasks: list[asyncio.Task[None]], grace: float) -> None:
        """Wait for loops to end; one that a lost backend holds for longer than that is cancelled."""
        if not tasks:
            return
        ended = asyncio.Event()
        waiting = asyncio.gather(*tasks, return_exceptions=True)
        waiting.add_done_callback(lambda _: ended.set())
        if not await self._clock.wait(ended, grace):
            for task in tasks:
                task.cancel()
        await waiting

    async def _flush(self) -> None:
        state = self.state
        try:
            async with asyncio.timeout(UNWIND):
                while state.finished or state.doubtful:
                    await self.settlement.flush()
                if state.outgoing:
                    await self.relay.once()
        except (BackendError, TimeoutError) as error:
            _logger.warning("worker %s leaves with unsettled work, which will be taken over: %s", self.name, error)

    async def _leave(self) -> None:
        state = self.state
        try:
            await state.store.put(WORKERS, [Put(self.name, None)])
        except BackendError as error:
            _logger.debug("the heartbeat could not be removed: %s", error)
        for job in self.execution.leftovers:
            _logger.warning(
                "agent %s still runs event %s in a thread that cannot be stopped; it is abandoned",
                job.subscription.config.name,
                job.event_id,
            )
        await self._close_backends()

    async def kill(self) -> None:
        """Vanish as if killed: nothing is settled, handed back or given back. For tests."""
        state = self.state
        state.stopping = state.closing = True
        for task in [*self._tasks, *self._intake_tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._intake_tasks, return_exceptions=True)
        for job in list(state.jobs.values()):
            job.cancelled.set()
            if state.to_agents is not None:
                state.to_agents.put((job, "lost"))
        state.jobs.clear()
        await self._close_backends()

    async def _close_backends(self) -> None:
        for part in (self.state.bus, self.state.store):
            try:
                await part.close()
            except BackendError as error:
                _logger.debug("closing: %s", error)

    def _abort(self, reason: str) -> None:
        state = self.state
        if state.jobs and state.to_agents is not None:
            state.to_agents.put(*((job, reason) for job in state.jobs.values()))

    def _receive(self, items: list[Report]) -> None:
        state, due = self.state, False
        for job, outcome, settled, freed in items:
            sub = job.subscription
            if freed and job.slot:
                job.slot = False
                sub.busy -= 1
                sub.from_inbox -= job.from_inbox
                sub.finished += 1
                due = due or sub.inbox_ready
            if job.token not in state.jobs or not settled:
                continue
            if outcome is None:
                state.abandon(job)
            else:
                state.finish(job, outcome)
        state.wake_intake.set()
        if due:
            state.wake_due.set()

    def _supervised(self, loop: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def run() -> None:
            while not self.state.closing:
                try:
                    return await loop()
                except Closed:
                    return None
                except BackendError as error:
                    if self.state.closing:
                        return None
                    self.state.failed("backend", error)
                except Exception:
                    # A loop that ends is a worker that looks alive and is dead: say so, and go on.
                    _logger.exception("worker %s: %s failed and begins again", self.name, loop.__qualname__)
                await self._clock.wait(asyncio.Event(), 1.0)
            return None

        return asyncio.get_running_loop().create_task(run(), name=f"omnidaemon-{loop.__qualname__}")
