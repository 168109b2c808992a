"""``TestRuntime``: runs the agents of an SDK in a test, in memory and on a clock that the test moves."""

# pyright: reportPrivateUsage=false
# Taking an SDK over is no part of its interface, nor is a look into a memory broker.
from __future__ import annotations

import asyncio
import contextlib
import math
import time as real_time
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any, Self

from omnidaemon import EventEnvelope, EventHandle, OmniDaemonSDK, TaskHandle
from omnidaemon.bootstrap import Chosen
from omnidaemon.model.envelope import decode
from omnidaemon.model.names import task_id
from omnidaemon.model.run import Group, Start
from omnidaemon.runtime import context as run_context
from omnidaemon.runtime import outgoing
from omnidaemon.runtime.handover import InlineHandover
from omnidaemon.runtime.worker import Worker
from omnidaemon.sdk.connections import Connections
from omnidaemon.settings import settings_from
from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing.faults import Faulty, Gate
from omnidaemon_testing.manual_clock import ManualClock

__all__ = ["TestRuntime"]

_MISSING = object()
# Real seconds for which advance() waits for running agents before it goes on: they may be stuck.
_PATIENCE = 0.2
_BEGINNING, _NOW = Start("beginning"), Start("now")


class _Clocked:
    """Stands in for the ``time`` module where core asks it for the time of day."""

    def __init__(self, clock: ManualClock) -> None:
        self.time = clock.time

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


class TestRuntime:
    """Takes an SDK over for the length of a block: memory backends, a clock that stands still, a worker.

    ::

        async with TestRuntime(sdk) as runtime:
            event = await sdk.publish("file.uploaded", {"filename": "a.txt"})
            await runtime.until_idle()
            assert (await event.result(timeout=1))["words"] == 3

    Whatever the SDK was configured for is left alone and in force again afterwards. Time passes by
    :meth:`advance` only: for retries, delays, leases and polling. What an agent awaits by itself
    (``asyncio.sleep``, a real service, a thread) takes real time.

    Args:
        sdk: The SDK with its agents; its worker must not be running.
        timeout: Real seconds after which :meth:`until_idle` gives up.
        start: The time it is, in seconds since the epoch; now if not given.
    """

    __test__ = False

    def __init__(self, sdk: OmniDaemonSDK, *, timeout: float = 10.0, start: float | None = None) -> None:
        self.sdk = sdk
        self.clock = ManualClock(start)
        self._timeout = timeout
        self._gate_of_bus, self._gate_of_store = Gate(), Gate()
        self._broker, self._tables = MemoryBroker(), MemoryTables()
        self._bus = MemoryEventBus(self._broker, clock=self.clock)
        self._store = MemoryStore(self._tables, clock=self.clock)
        self._restore = contextlib.ExitStack()

    # --- the block --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self.sdk.running:
            raise RuntimeError("TestRuntime takes over an SDK whose worker does not run: stop() it first")
        self._take_over()
        try:
            await self._store.open()
            await self._bus.open()
            await self.sdk.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    def _take_over(self) -> None:
        settings, _ = settings_from({}, self.sdk._given[2])  # noqa: SLF001 - what its constructor was given
        bus: Any = Faulty(self._bus, self._gate_of_bus)
        store: Any = Faulty(self._store, self._gate_of_store)
        why = {"event_bus": "memory (TestRuntime)", "store": "memory (TestRuntime)"}
        chosen = Chosen(bus, store, settings, why, [])
        loop = asyncio.get_running_loop()
        self._replace(self.sdk, "_chosen", chosen)
        self._replace(self.sdk, "clock", self.clock)
        self._replace(self.sdk, "connections", Connections(lambda: chosen, self.clock))
        # Agents and I/O share the test's loop: nothing happens while the test itself runs.
        self._replace(self.sdk, "_make_handover", lambda: InlineHandover(loop))
        for module in (outgoing, run_context):
            self._replace(module, "time", _Clocked(self.clock))

    def _replace(self, target: Any, name: str, value: Any) -> None:
        before = vars(target).get(name, _MISSING)

        def back() -> None:
            if before is _MISSING:
                delattr(target, name)
            else:
                setattr(target, name, before)

        setattr(target, name, value)
        self._restore.callback(back)

    async def _leave(self) -> None:
        try:
            await self._kill()
            await self.sdk.connections.close()
            await self._bus.close()
            await self._store.close()
        finally:
            self._restore.close()

    # --- time ---------------------------------------------------------------------------------------

    async def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: retries, delays, leases and expiries on the way happen, in their order."""
        length = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if length < 0:
            raise ValueError(f"advance({seconds!r}): time does not run backwards")
        end = self.clock.time() + length
        while self.clock.time() < end:
            await self._settled()
            self.clock.jump(min(end, self._next()))
        await self._settled()

    async def _settled(self) -> None:
        """Let everything happen that can now; what goes on running is left to run."""
        end = real_time.monotonic() + self._timeout
        await self.clock.settle()
        while await self._waiting() and real_time.monotonic() < end:
            self.clock.nudge()
            await self.clock.settle()
            await asyncio.sleep(0.001 if self._running() else 0)
        patience = real_time.monotonic() + _PATIENCE
        # Agents end by themselves: there is nothing to wait on.
        while self._running() and real_time.monotonic() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def _next(self) -> float:
        """Return when something is due next, or a claim has to be renewed."""
        now, worker = self.clock.time(), self._worker
        if worker is None:
            return math.inf
        state = worker.state
        if state.jobs or state.trouble or self._gate_of_bus.down or self._gate_of_store.down:
            return now + min(1.0, state.shortest_lease / 4)
        times: list[float | None] = [until for _, until in self._redeliveries()]
        with self._tables.transaction(now) as ledger:
            times.append(ledger.tables.next_outbox())
            for group in state.subscriptions:
                times.append(ledger.tables.next_ready(group))
                suspects = ledger.tables.ready(group, math.inf, 1, suspect=True, expired=True)
                times.extend(row.ready for row in suspects)
        # What is overdue all the same (a paused agent's run, say) must not stop time.
        return min((time for time in times if time is not None and time > now), default=math.inf)

    def _redeliveries(self) -> Iterator[tuple[Group, float]]:
        """Yield when what the bus has handed out is due for somebody else, or was given back."""
        for topic in self._broker._topics.values():  # noqa: SLF001 - a broker's own tool, not a port's
            for group, state in topic.groups.items():
                yield from ((group, hand.until) for hand in state.pending.values())

    async def until_idle(self) -> None:
        """Run until nothing is left to do now: what remains waits for its time, an answer or a resume.

        Raises:
            AssertionError: Something still runs after ``timeout`` real seconds; says what.
        """
        end = real_time.monotonic() + self._timeout
        while True:
            await self.clock.settle()
            running, waiting = self._running(), await self._waiting()
            if not running and not waiting:
                return
            if real_time.monotonic() > end:
                raise AssertionError(
                    f"not idle after {self._timeout:g} s: {', '.join(running + waiting)}; an agent that waits for"
                    " something real may need TestRuntime(timeout=)"
                )
            if running:
                await asyncio.sleep(0.001)
            else:
                self.clock.nudge()

    def _running(self) -> list[str]:
        worker = self._worker
        if worker is None:
            return []
        state = worker.state
        names = [f"{task_id(job.event_id, job.subscription.config.name)} is running" for job in state.jobs.values()]
        return names + ["outcomes wait to be settled"] * bool(state.finished) + ["follow-ups"] * bool(state.outgoing)

    async def _waiting(self) -> list[str]:
        """Return what could be started now and is not."""
        worker = self._worker
        if worker is None or self._gate_of_bus.down or self._gate_of_store.down:
            return []
        found: list[str] = []
        paused = {row.group for row in await self._store.agents() if await self._paused(row.group)}
        served = {sub.group for sub in worker.state.subscriptions.values()} - paused
        now = self.clock.time()
        for topic in await self._bus.topics():
            infos = [info for info in (await self._bus.info(topic)).groups if info.group in served and info.lag.value]
            found += [f"{info.lag.value} events for {info.group.agent} on {topic}" for info in infos]
        again = {group for group, at in self._redeliveries() if group in served and at <= now}
        found += [f"a redelivery for {group.agent}" for group in again]
        with self._tables.transaction(now) as ledger:
            for group in served:
                ready = ledger.tables.next_ready(group)
                if ready is not None and ready <= ledger.now and ledger.alive(group):
                    found.append(f"a due run of {group.agent}")
            following = ledger.tables.next_outbox()
            if following is not None and following <= ledger.now:
                found.append("an event to be published")
        return found

    async def _paused(self, group: Group) -> bool:
        (flag,) = await self._store.get("control", [f"pause:{group.topic}:{group.agent}"])
        return flag is not None

    # --- looking --------------------------------------------------------------------------------------

    async def published(self, topic: str) -> list[EventEnvelope]:
        """Return what was published on a topic, oldest first: by the test, by agents, as replies."""
        return [decode(body) async for _, body in self._bus.history(topic, _BEGINNING, _NOW)]

    @property
    def _worker(self) -> Worker | None:
        return self.sdk._worker  # noqa: SLF001 - there is no public way to see whether it is idle

    # --- faults ---------------------------------------------------------------------------------------

    async def crash(self) -> None:
        """Let the worker vanish as if its process had been killed, and start a new one.

        Nothing is settled, handed back or given back. What ran is taken over when its lease has
        passed: ``await runtime.advance(20)`` with the default of 15 s.
        """
        await self._kill()
        await self.sdk.start()

    async def _kill(self) -> None:
        sdk, worker = self.sdk, self._worker
        if worker is None:
            return
        runners = [sub.runner for sub in worker.state.subscriptions.values()]
        killing = asyncio.ensure_future(worker.kill())
        while not killing.done():
            self.clock.nudge()
            await asyncio.sleep(0)
        await killing
        for runner in runners:
            await runner.close(0.0)
        sdk._worker = sdk._handover = None  # noqa: SLF001
        sdk._stopped.set()  # noqa: SLF001
        await self.clock.settle()

    async def redeliver(self, event: EventHandle | str) -> None:
        """Have the bus deliver an event again to every agent of its topic, as after a lost acknowledgement."""
        event_id = event if isinstance(event, str) else event.id
        found = False
        for name in await self._bus.topics():
            topic = self._broker._topics[name]  # noqa: SLF001 - a broker's own tool, not a port's
            for entry in topic.entries:
                if entry.id == event_id:
                    found = True
                    for state in topic.groups.values():
                        if entry.position <= state.cursor:
                            state.hand_over(entry, "", self.clock.time())
        if not found:
            raise LookupError(f"no topic holds event {event_id}")
        self.clock.nudge()
        await self.until_idle()

    async def lose_lease(self, task: TaskHandle | str) -> None:
        """Let the claim of a running task pass to somebody else, who then does nothing with it.

        The run is cancelled and its outcome refused. When the lease of that somebody has passed too
        (``await runtime.advance(20)``), the task is run again.
        """
        name = task if isinstance(task, str) else task.id
        record = await self.sdk.find_one(name)
        if record is None or record.worker is None:
            raise LookupError(f"task {name} is not running")
        with self._tables.transaction(self.clock.time()) as ledger:
            row = ledger.tables.run(record.group.topic, record.group.agent, record.event_id)
            assert row is not None
            row.token, row.worker = f"{row.token}-lost", "somebody else"
            ledger.tables.put_run(row)
        for _ in range(3):
            self.clock.nudge()
            await self.clock.settle()

    @contextlib.contextmanager
    def store_down(self) -> Generator[None]:
        """Make the store unreachable for the length of a block."""
        with self._down(self._gate_of_store):
            yield

    @contextlib.contextmanager
    def bus_down(self) -> Generator[None]:
        """Make the bus unreachable for the length of a block."""
        with self._down(self._gate_of_bus):
            yield

    @contextlib.contextmanager
    def _down(self, gate: Gate) -> Generator[None]:
        gate.down = True
        try:
            yield
        finally:
            gate.down = False
            self.clock.nudge()
