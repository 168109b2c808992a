"""Runs one history: publishes, commands and breaks as its profile says, then heals and waits for the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from omnidaemon.bootstrap import Chosen
from omnidaemon.model.errors import BackendError, OmniDaemonError, PublishUncertain
from omnidaemon.model.run import Outgoing
from omnidaemon.ports.ledger import ledger
from omnidaemon.ports.store import Query
from omnidaemon.runtime import history, intake, janitor, outcome, relay
from omnidaemon.sdk.client import OmniDaemonSDK
from simulation import checks
from simulation.agents import SimRunner, config_of
from simulation.backends import SimBus, SimStore
from simulation.loop import Deadlock, Process, SimClock
from simulation.profile import AgentPlan, Event, Profile
from simulation.world import Server, World

__all__ = ["History", "Report", "run"]

TICK = 0.2
# Seconds without any settle after which a history that is not at rest hangs, and after which it is over.
PATIENCE = 40.0
LIMIT = 900.0
TRIES = 8


@dataclass(slots=True)
class Report:
    """What became of a history."""

    profile: Profile
    violations: list[str]
    lines: list[str] = field(default_factory=list)
    virtual: float = 0.0
    accepted: int = 0


class History:
    """One run of one profile."""

    def __init__(self, profile: Profile, *, verbose: bool = False) -> None:
        self.profile = profile
        self.world = World(profile, verbose=verbose)
        self.rng = random.Random(profile.seed ^ 0xD21F)
        self.client = Process(self.world.loop, "client")
        self.sure: set[str] = set()
        self.maybe: set[str] = set()
        self.busy: list[tuple[Process, asyncio.Task[Any]]] = []
        self.times = self.rng.choice((1, 2, 3, 12))
        self.sdk = self._sdk()

    def _sdk(self) -> OmniDaemonSDK:
        sdk = OmniDaemonSDK()
        bus, store = SimBus(self.world, self.client), SimStore(self.world, self.client)
        sdk._chosen = Chosen(bus, store, self.world.settings, {}, [])
        sdk.clock = sdk.connections._clock = SimClock(self.world.loop)
        return sdk

    def run(self) -> Report:
        """Run it to its end and judge it."""
        _tune(self.profile)
        world, violations = self.world, self.world.oracle.violations
        try:
            world.loop.run_until_complete(self._live())
        except Deadlock as error:
            violations.append(str(error))
        finally:
            now = world.loop.time()
            self._bury()
        for context in world.loop.errors:
            violations.append(f"unhandled: {context.get('message')}: {context.get('exception')!r}")
        return Report(self.profile, violations, world.lines, now, len(world.oracle.tokens))

    def _bury(self) -> None:
        """Close the loop, and the coroutines of killed processes, which never ran to their end."""
        world = self.world
        with contextlib.suppress(RuntimeError):
            world.loop.close()
        for process in [self.client, *(server.process for server in world.servers)]:
            for task in process.tasks:
                coroutine = task.get_coro()
                if not task.done() and coroutine is not None:
                    with contextlib.suppress(Exception):
                        coroutine.close()

    async def _live(self) -> None:
        world, profile = self.world, self.profile
        for _ in range(profile.workers):
            world.start_server(self._some_agents())
        plan: list[tuple[float, Callable[[], Coroutine[Any, Any, Any]], str]] = []
        for event in profile.events:
            plan.append((event.at, partial(self.publish, event), "publish"))
            if event.again is not None:
                plan.append((event.again, partial(self.publish, event), "publish again"))
        for at, name in profile.actions:
            plan.append((at, getattr(self, f"do_{name}"), name))
        plan.sort(key=lambda item: item[0])
        for at, work, name in plan:
            while world.loop.time() < at:
                await asyncio.sleep(min(TICK, at - world.loop.time()))
                self._look()
                if world.oracle.violations:
                    return
            self.begin(self.client, work(), name)
        while world.loop.time() < profile.span:
            await asyncio.sleep(TICK)
            self._look()
        await self._end()

    def _some_agents(self) -> list[AgentPlan]:
        plans = self.profile.agents
        if self.rng.random() < 0.8:
            return plans
        return self.rng.sample(plans, self.rng.randint(1, len(plans)))

    def _look(self) -> None:
        """Judge the moment, and start again what was killed."""
        world = self.world
        world.oracle.look()
        self.busy = [(at, task) for at, task in self.busy if not task.done() and at.halted != "dead"]
        for server in world.servers:
            if server.process.halted == "dead" and not server.left:
                server.left = True
                self.begin(self.client, self._again(server), "restart")

    def begin(self, process: Process, work: Coroutine[Any, Any, Any], name: str = "main") -> None:
        """Let a process do something, which the history waits for unless that process is killed."""
        self.busy.append((process, process.spawn(work, name)))

    async def _again(self, server: Server) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        self.world.start_server(server.agents)

    async def _end(self) -> None:
        world = self.world
        await asyncio.sleep(0)
        world.heal()
        rest, ended = 2, world.loop.time() + LIMIT
        while rest and not world.oracle.violations:
            await asyncio.sleep(TICK)
            self._look()
            self._serve_all()
            await self._answer_all()
            why = checks.unfinished(self)
            rest = 2 if why else rest - 1
            idle = world.loop.time() - world.oracle.moved_at
            if why and (idle > PATIENCE or world.loop.time() > ended):
                world.oracle.wrong(f"nothing has moved for {idle:.0f} s, but {why}")
                return
        if not world.oracle.violations:
            checks.at_rest(self)
            for server in [server for server in world.servers if server.alive]:
                await asyncio.gather(server.process.spawn(world.drain(server, 1.0)))
            checks.at_end(self)

    def _serve_all(self) -> None:
        """See to it that every agent is served by somebody, and that nobody is paused."""
        world = self.world
        served = {plan.name for server in world.servers if server.alive for plan in server.agents}
        missing = [plan for plan in self.profile.agents if plan.name not in served]
        if missing and not any(server.process.halted == "dead" and not server.left for server in world.servers):
            world.start_server(self.profile.agents)
        if world.oracle.paused and not self.busy:
            key = next(iter(world.oracle.paused))
            _, topic, agent = key.split(":")
            row = world.tables.agent(topic, agent)
            if row is not None and not row.deleted:
                self.begin(self.client, self.sdk.resume_agent(topic, agent))

    async def _answer_all(self) -> None:
        if not self.busy:
            for row in checks.asking(self):
                self.begin(self.client, self._answer(row), "answer")

    # --- what the driver does -----------------------------------------------------------------

    async def persist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await a call again until it gets through, at most a few times."""
        for number in range(TRIES):
            try:
                return await call()
            except BackendError as error:
                self.world.trace("client", f"{error}")
                await asyncio.sleep(0.1 * 2 ** min(number, 4))
            except OmniDaemonError as error:
                self.world.trace("client", f"refused: {error}")
                return None
        return None

    async def publish(self, event: Event) -> None:
        """Publish an event until it is surely there; its id makes that safe."""
        self.world.trace("publish", f"{event.id} on {event.topic}: {event.plan} key {event.key or event.session}")
        now = self.world.store_clock.time()
        deliver_at = None if event.delay is None else now + event.delay
        expires_at = None if event.ttl is None else now + event.ttl
        for number in range(TRIES):
            self.maybe.add(event.id)
            try:
                if event.plan == "garbage":
                    await self._garbage(event)
                else:
                    await self.sdk.publish(
                        event.topic,
                        {"plan": event.plan, "times": self.times},
                        id=event.id,
                        key=event.key,
                        session_id=event.session,
                        deliver_at=deliver_at,
                        expires_at=expires_at,
                        reply_to="t2" if event.plan == "reply" else None,
                    )
            except BackendError as error:
                self.world.trace("client", f"{event.id}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.1 * 2 ** min(number, 4))
            else:
                self.sure.add(event.id)
                return

    async def _garbage(self, event: Event) -> None:
        pair = await self.sdk.connections.get()
        answer = (await pair.bus.publish([Outgoing(event.topic, event.id, b"\xff{")], 5.0))[0]
        if isinstance(answer, Exception):
            raise answer if isinstance(answer, BackendError) else PublishUncertain(str(answer))

    def _server(self) -> Server | None:
        alive = [server for server in self.world.servers if server.alive and server.ready]
        return self.rng.choice(alive) if alive else None

    def _agent(self) -> AgentPlan:
        return self.rng.choice(self.profile.agents)

    async def do_kill(self) -> None:
        """Kill a worker."""
        server = self._server()
        if server is not None:
            self.world.kill(server.process)

    async def do_stop(self) -> None:
        """Stop a worker for a while."""
        server = self._server()
        if server is not None:
            self.world.stop(server.process)

    async def do_drain(self) -> None:
        """Let a worker leave, and another one come."""
        server = self._server()
        if server is not None:
            self.begin(server.process, self.world.drain(server, self.rng.uniform(0.0, 1.0)), "drain")
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            self.world.start_server(server.agents)

    async def do_drop(self) -> None:
        """Break a connection to the bus, or make the groups rebalance."""
        server = self._server()
        if server is not None:
            self.world.trace("drop", server.process.name)
            server.process.disturbed_at = self.world.loop.time()
            self.world._hang_up(server.process)

    async def do_outage(self) -> None:
        """Take bus, store or both away for a while."""
        await self._cut(self.rng.choice((["bus"], ["store"], ["bus", "store"])))

    async def do_cut(self) -> None:
        """Cut one worker off."""
        server = self._server()
        if server is not None:
            parts = self.rng.choice((["bus"], ["store"], ["bus", "store"]))
            await self._cut([(server.process.name, part) for part in parts])

    async def _cut(self, what: list[Any]) -> None:
        length = self.rng.choice((0.2, 1.0, 3.0)) * self.rng.uniform(0.5, 1.5)
        self.world.trace("down", f"{what} for {length:.2f}")
        self.world.down.update(what)
        self.world.disturbed_at = self.world.loop.time()
        await asyncio.sleep(length)
        self.world.down.difference_update(what)
        self.world.disturbed_at = self.world.loop.time()
        self.world.trace("up", f"{what}")

    async def do_step(self) -> None:
        """Step a clock: the store's, the bus's or a worker's."""
        by = self.rng.choice((-4.0, -1.0, 1.0, 4.0, 30.0))
        which = self.rng.choice(("store", "bus", "worker"))
        self.world.trace("step", f"{which} by {by}")
        self.world.disturbed_at = self.world.loop.time()
        server = self._server()
        if which == "store":
            self.world.store_skew += by
        elif which == "bus":
            self.world.bus_skew += by
        elif server is not None:
            server.process.skew += by

    async def do_pause(self) -> None:
        """Pause an agent, and resume it later, perhaps."""
        plan, length = self._agent(), self.rng.uniform(0.1, 4.0)
        self.world.trace("pause", plan.name)
        await self.persist(lambda: self.sdk.pause_agent(plan.topic, plan.name))
        if self.rng.random() < 0.7:
            await asyncio.sleep(length)
            self.world.trace("resume", plan.name)
            await self.persist(lambda: self.sdk.resume_agent(plan.topic, plan.name))

    async def do_cancel(self) -> None:
        """Cancel a task, whether anyone has met it or not."""
        plan, event = self._agent(), self.rng.choice(self.profile.events)
        task = f"{event.id}:{plan.name}"
        self.world.trace("cancel", task)
        done = await self.persist(lambda: self.sdk.cancel(task))
        self.world.trace("cancel", f"{task}: {done}")

    async def do_answer(self) -> None:
        """Answer what is asked, twice."""
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        for row in checks.asking(self)[:2]:
            await self._answer(row)
            await self._answer(row)

    async def _answer(self, row: Any) -> None:
        self.world.trace("answer", f"{row.event_id}:{row.group.agent}")
        await self.persist(lambda: self.sdk.answer(row.record(), "q", 42))

    async def do_replay(self) -> None:
        """Replay an agent's dead letters, twice at the same time."""
        plan = self._agent()
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        self.world.trace("replay", plan.name)
        again = self.client.spawn(self._replay(plan))
        await self._replay(plan)
        await again

    async def _replay(self, plan: AgentPlan) -> None:
        await self.persist(lambda: self.sdk.replay_dead_letters(topic=plan.topic, agent=plan.name))

    async def do_history(self) -> None:
        """Replay a topic's history for one agent."""
        plan = self._agent()
        self.world.trace("history", plan.name)
        await self.persist(lambda: self.sdk.replay(plan.topic, plan.name, job="h"))

    async def do_clear(self) -> None:
        """Remove finished records."""
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        self.world.trace("clear", "")
        pair = await self.sdk.connections.get()
        await self.persist(lambda: pair.store.remove(Query(dead=False)))

    async def do_purge(self) -> None:
        """Remove an agent's dead letters."""
        plan = self._agent()
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        self.world.trace("purge", plan.name)
        await self.persist(lambda: self.sdk.purge_dead_letters(topic=plan.topic, agent=plan.name))

    async def do_skip(self) -> None:
        """Skip an agent forward."""
        if self.rng.random() < 0.5:
            return
        plan = self._agent()
        self.world.trace("skip", plan.name)
        self.world.skipped = True
        await self.persist(lambda: self.sdk.skip(plan.topic, plan.name))

    async def do_register(self) -> None:
        """Register an agent in a worker that runs, whether it serves it already or not."""
        plan, server = self._agent(), self._server()
        if server is not None:
            runner = SimRunner(self.world, server.process, plan)
            self.world.trace("add", f"{plan.name} to {server.process.name}")
            self.begin(server.process, self.persist(lambda: server.worker.add(config_of(plan, runner), runner)), "add")

    async def do_delete(self) -> None:
        """Delete an agent, and register it again, perhaps."""
        plan = self._agent()
        group, dead = self.rng.random() < 0.6, self.rng.random() < 0.5
        self.world.trace("delete", f"{plan.name} group {group}")
        await self.persist(lambda: self.sdk.delete_agent(plan.topic, plan.name, delete_group=group, delete_dlq=dead))
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        way = self.rng.random()
        server = self._server()
        if way < 0.4 and server is not None:
            runner = SimRunner(self.world, server.process, plan)
            self.world.trace("add", f"{plan.name} to {server.process.name}")
            self.begin(server.process, self.persist(lambda: server.worker.add(config_of(plan, runner), runner)), "add")
        elif way < 0.8:
            self.world.start_server([plan])


def _tune(profile: Profile) -> None:
    """Make the runtime's own chance part of the seed, and what costs time without telling anything rare."""
    outcome._rng = random.Random(profile.seed)  # type: ignore[assignment]
    setattr(history, "traceback", SimpleNamespace(format_exception=lambda error: [str(error)]))  # noqa: B010
    janitor.INTERVAL = 1.0 if profile.theme == "forget" else 5.0
    intake.SATURATED_WAIT = 0.1
    # What a dead relay has leased is free again as soon as what a dead worker has claimed.
    ledger.OUTBOX_LEASE = relay.LEASE = 2.0
    janitor.UNCONFIRMED = 5.0


def run(profile: Profile, *, verbose: bool = False) -> Report:
    """Run one history."""
    logger = logging.getLogger("omnidaemon")
    level = logger.level
    if not verbose:
        logger.setLevel(logging.CRITICAL)
    try:
        return History(profile, verbose=verbose).run()
    finally:
        logger.setLevel(level)
