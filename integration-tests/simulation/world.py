"""One simulated deployment: loop, clocks, broker, tables, processes, and what is broken at the moment."""

from __future__ import annotations

import contextvars
import random
from collections import Counter
from typing import TYPE_CHECKING

from omnidaemon.model.errors import BackendError
from omnidaemon.model.run import Group
from omnidaemon.runtime.handover import InlineHandover
from omnidaemon.runtime.worker import Worker
from omnidaemon.settings import Settings
from simulation.agents import SimRunner, config_of
from simulation.backends import SimBus, SimStore
from simulation.kinds import broker_of
from simulation.loop import Process, SimClock, VirtualLoop
from simulation.oracle import Oracle
from simulation.watch import WatchedTables

if TYPE_CHECKING:
    from omnidaemon.model.run import Ask, Delivery
    from simulation.line import Line
    from simulation.profile import AgentPlan, Profile

__all__ = ["Server", "World"]

SESSION = 1.0


class Server:
    """A worker in a process of its own."""

    def __init__(self, process: Process, worker: Worker, agents: list[AgentPlan]) -> None:
        self.process, self.worker, self.agents = process, worker, agents
        self.ready = False
        self.leaving = False
        self.leaving_at = 0.0
        self.left = False

    @property
    def alive(self) -> bool:
        """Whether it serves, or will."""
        return self.process.halted != "dead" and not self.leaving


class World:
    """Everything of one history that is not its plan."""

    def __init__(self, profile: Profile, *, verbose: bool = False) -> None:
        self.profile, self.verbose = profile, verbose
        self.rng = random.Random(profile.seed ^ 0x5EED)
        self.loop = VirtualLoop()
        self.store_skew = self.bus_skew = 0.0
        self.store_clock = SimClock(self.loop, lambda: self.store_skew)
        self.bus_clock = SimClock(self.loop, lambda: self.bus_skew)
        self.tables = WatchedTables()
        self.tables.oracle = self.oracle = Oracle(self)
        self.broker = broker_of(profile.kind, self.rng)
        self.settings = Settings.model_validate(
            {
                "adopt_after": profile.adopt_after,
                "grace": 1.0,
                "retention": 1e6,
                "dedup_window": profile.window,
                "result_ttl": profile.window,
            }
        )
        self.skipped = False
        self.servers: list[Server] = []
        self.buses: list[SimBus] = []
        self.down: set[str | tuple[str, str]] = set()
        self.taken: dict[str, tuple[list[Ask], list[Delivery]]] = {}
        self.rates = list(profile.rates.items())
        self._total = sum(profile.rates.values())
        self.disturbed_at = float("-inf")
        self._serial = 0
        self.lines: list[str] = []

    def trace(self, what: str, text: str) -> None:
        """Note what happens, for the verbose mode and for comparing two runs of a seed."""
        if self.verbose:
            self.lines.append(f"{self.loop.time():9.4f} {what:7} {text}")

    def number(self) -> int:
        """Return a number that was not returned before."""
        self._serial += 1
        return self._serial

    def name(self, prefix: str) -> str:
        """Return a name that was not returned before."""
        return f"{prefix}{self.number()}"

    def travel(self) -> float:
        """Return how long a message is on its way."""
        return self.rng.random() * self.profile.latency

    def lease(self, group: Group) -> float:
        """Return the lease of an agent."""
        return next(plan.lease for plan in self.profile.agents if plan.name == group.agent)

    def draw_fault(self, line: Line) -> str | None:
        """Return which fault strikes a call, mostly none."""
        place = self.rng.random()
        if place >= self._total:
            return None
        for fault, rate in self.rates:
            place -= rate
            if place < 0:
                return fault if line.process.name != "client" or fault not in ("kill", "stop") else None
        return None

    def earlier(self, group: Group, event_id: str) -> list[str]:
        """Return the ids of the events of its lane that lie before an event, as the group sees the topic."""
        entries = self.broker.entries(group.topic)
        place = next((index for index, entry in enumerate(entries) if entry.id == event_id), None)
        if place is None:
            return []
        start, key = self.broker.starts.get(group, 0), entries[place].key
        found = [entry.id for entry in entries[:place] if entry.key == key and entry.position > start]
        # What was published twice, or ended before anyone met it, says nothing of what lies before it.
        times = Counter(entry.id for entry in entries)
        return found if all(times[id_] == 1 and not self._unmet(group, id_) for id_ in [*found, event_id]) else []

    def _unmet(self, group: Group, event_id: str) -> bool:
        row = self.tables.run(group.topic, group.agent, event_id)
        return row is not None and row.state.final and row.lane is None

    # --- processes ----------------------------------------------------------------------------

    def start_server(self, agents: list[AgentPlan]) -> Server:
        """Start a worker that serves these agents."""
        process = Process(self.loop, self.name("w"))
        clock = SimClock(self.loop, lambda: process.skew)
        worker = Worker(
            SimBus(self, process),
            SimStore(self, process),
            self.settings,
            InlineHandover(self.loop),
            clock=clock,
            connect_timeout=2.0,
            name=process.name,
        )
        worker.state.rng = random.Random(self.rng.random())
        worker.state._prefix = process.name
        server = Server(process, worker, agents)
        self.servers.append(server)
        process.spawn(self._serve(server))
        return server

    async def _serve(self, server: Server) -> None:
        process, worker = server.process, server.worker
        pairs = []
        for plan in server.agents:
            runner = SimRunner(self, process, plan)
            pairs.append((config_of(plan, runner), runner))
        try:
            await worker.start(pairs)
        except BackendError as error:
            self.trace("start", f"{process.name} did not start: {error}")
            self.kill(process)
        else:
            server.ready = True
            self.trace("start", f"{process.name} serves {', '.join(plan.name for plan in server.agents)}")

    async def drain(self, server: Server, grace: float) -> None:
        """Stop a worker in good order."""
        server.leaving, server.leaving_at = True, self.loop.time()
        await server.worker.stop(grace)
        server.left = True
        self.trace("left", server.process.name)

    def kill(self, process: Process) -> None:
        """SIGKILL a worker."""
        if process.halted == "dead":
            return
        self.trace("kill", process.name)
        process.kill()
        self.oracle.died(process)
        after = SESSION if self.profile.kind == "position" else 0.001
        self.loop.call_later(after, self._hang_up, process, context=contextvars.Context())

    def stop(self, process: Process) -> None:
        """SIGSTOP a worker for a while."""
        if process.halted:
            return
        lease = self.profile.bus_lease
        length = self.rng.choice((0.1, 0.4 * lease, 1.2 * lease, 2.5 * lease)) * self.rng.uniform(0.8, 1.2)
        self.trace("stop", f"{process.name} for {length:.2f}")
        process.stop()
        process.disturbed_at = self.loop.time()
        self.loop.call_later(SESSION, self._time_out, process, context=contextvars.Context())
        self.loop.call_later(length, self._go_on, process, context=contextvars.Context())

    def _go_on(self, process: Process) -> None:
        if process.halted == "stopped":
            self.trace("go on", process.name)
            process.go_on()

    def _time_out(self, process: Process) -> None:
        """The bus has not heard of a stopped process for too long."""
        if process.halted == "stopped":
            self._hang_up(process)

    def _hang_up(self, process: Process) -> None:
        for bus in self.buses:
            if bus.process is process:
                bus.drop()

    def heal(self) -> None:
        """End all faults."""
        self.rates, self._total = [], 0.0
        self.down.clear()
        for server in self.servers:
            self._go_on(server.process)
        self.trace("heal", "")
