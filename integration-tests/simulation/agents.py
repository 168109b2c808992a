"""What the simulated agents do: each event names its plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidaemon.model.agent import AgentConfig, RetryPolicy, SubscriptionConfig
from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.model.errors import NonRetryable, RetryAfter
from omnidaemon.model.run import TaskState
from omnidaemon.ports.context import Context
from omnidaemon.ports.event_bus import PORT_VERSION
from omnidaemon.ports.runner import Done, Runner, RunnerCapabilities
from omnidaemon.runtime.context import RunContext

if TYPE_CHECKING:
    from omnidaemon.runtime.job import Job
    from simulation.loop import Process
    from simulation.profile import AgentPlan
    from simulation.world import World

__all__ = ["DOWNSTREAM", "SimRunner", "config_of", "expected"]

DOWNSTREAM = "t2"
POSTPONED = 2
# The states and dead-letter reasons that a plan may end in.
_ENDS: dict[str, tuple[TaskState, str | None]] = {
    "doomed": (TaskState.FAILED, "max_attempts"),
    "endless": (TaskState.FAILED, "timeout"),
    "hopeless": (TaskState.FAILED, "non_retryable"),
    "ask_timeout": (TaskState.FAILED, "unanswered"),
    "unstorable": (TaskState.FAILED, "unserializable_result"),
    "garbage": (TaskState.FAILED, "undecodable"),
    "expired": (TaskState.REJECTED, None),
}


def config_of(plan: AgentPlan, runner: SimRunner) -> AgentConfig:
    """Return the declaration of an agent."""
    return AgentConfig(
        topic=plan.topic,
        name=plan.name,
        agent=runner,
        config=SubscriptionConfig(
            max_concurrency=plan.concurrency,
            lease=plan.lease,
            timeout=plan.timeout,
            retry=RetryPolicy(max_attempts=plan.attempts, initial=plan.initial),
        ),
    )


def expected(plan: str, agent: AgentPlan) -> set[tuple[TaskState, str | None]]:
    """Return how a run of that plan may end, besides by cancel, delete or crash loop."""
    ends: set[tuple[TaskState, str | None]] = {_ENDS.get(plan, (TaskState.COMPLETED, None))}
    if plan in ("fail1", "fail2") and agent.attempts <= int(plan[-1]):
        ends = {(TaskState.FAILED, "max_attempts")}
    if plan == "endless" and agent.timeout is None:
        ends = {(TaskState.COMPLETED, None)}
    if plan == "bomb":
        ends.add((TaskState.FAILED, "crash_loop"))
    if plan == "expired":
        ends.add((TaskState.COMPLETED, None))
    return ends


@dataclass(frozen=True, slots=True)
class Run:
    """What a plan is given."""

    event: EventEnvelope
    context: RunContext
    job: Job


class SimRunner:
    """One agent in one process; tells the oracle when a run begins and ends."""

    port_version = PORT_VERSION
    capabilities = RunnerCapabilities(name="simulation")

    def __init__(self, world: World, process: Process, plan: AgentPlan) -> None:
        self.world, self.process, self.plan = world, process, plan

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self, grace: float) -> None:
        """Nothing to let go of."""

    async def run(self, event: EventEnvelope, context: Context) -> Done:
        """Do what the event's plan says."""
        assert isinstance(context, RunContext)
        job = context._job
        self.world.oracle.begins(self.process, job)
        try:
            content: Any = event.payload.content
            plan = content.get("plan", "ok") if isinstance(content, dict) else "ok"
            await asyncio.sleep(self.world.rng.choice((0.0, 0.0, 0.01, 0.05, 0.2)))
            value = await getattr(self, f"_{plan}", self._ok)(Run(event, context, job))
            return Done(value)
        finally:
            self.world.oracle.ends(self.process, job)

    async def _ok(self, run: Run) -> Any:
        return {"of": run.event.id}

    async def _slow(self, run: Run) -> Any:
        await asyncio.sleep(self.world.rng.uniform(0.5, 2.5) * self.plan.lease)
        return {"of": run.event.id}

    async def _endless(self, run: Run) -> Any:
        await asyncio.sleep(2.0)
        return {"of": run.event.id}

    async def _fail1(self, run: Run) -> Any:
        return self._fail(run, 1)

    async def _fail2(self, run: Run) -> Any:
        return self._fail(run, 2)

    @staticmethod
    def _fail(run: Run, times: int) -> Any:
        if run.context.attempt <= times:
            raise RuntimeError(f"attempt {run.context.attempt}")
        return {"of": run.event.id}

    async def _doomed(self, _: Run) -> Any:
        raise RuntimeError("always")

    async def _hopeless(self, _: Run) -> Any:
        raise NonRetryable("never")

    async def _later(self, run: Run) -> Any:
        group, generation = run.job.subscription.group, run.job.grant.generation
        if self.world.oracle.postponed[group, run.event.id, generation] < POSTPONED:
            raise RetryAfter(self.world.rng.uniform(0.0, 0.6))
        return {"of": run.event.id}

    async def _ask(self, run: Run) -> Any:
        answer = await run.context.ask("q", "how many?")
        return {"of": run.event.id, "answer": answer}

    async def _ask_timeout(self, run: Run) -> Any:
        await run.context.ask("unanswered", "hello?", timeout=0.5)
        return {"of": run.event.id}

    async def _steps(self, run: Run) -> Any:
        for name in ("one", "two"):
            value = await run.context.step(name, self._number)
            self.world.oracle.step(run.job, name, value)
            if run.context.attempt == 1 and name == "one":
                raise RuntimeError("between the steps")
        return {"of": run.event.id}

    async def _number(self) -> int:
        await asyncio.sleep(0)
        return self.world.number()

    async def _progress(self, run: Run) -> Any:
        for number in range(3):
            await run.context.progress("going on", number * 50)
        return {"of": run.event.id}

    async def _follow(self, run: Run) -> Any:
        for number in range(self.world.rng.randint(1, 2)):
            await run.context.publish(DOWNSTREAM, {"plan": "ok", "number": number}, key=run.event.key)
        await asyncio.sleep(0.02)
        return {"of": run.event.id}

    async def _follow_later(self, run: Run) -> Any:
        await run.context.publish(DOWNSTREAM, {"plan": "ok"}, deliver_at=self.world.store_clock.time() + 0.7)
        if run.context.attempt == 1:
            raise RuntimeError("after a follow-up was planned")
        return {"of": run.event.id}

    async def _bomb(self, run: Run) -> Any:
        if self.world.oracle.bombs[run.event.id] < run.event.payload.content["times"]:  # type: ignore[index,call-overload,operator]
            self.world.oracle.bombs[run.event.id] += 1
            self.world.kill(self.process)
            await self.world.loop.create_future()
        return {"of": run.event.id}

    async def _unstorable(self, _: Run) -> Any:
        return object()


def checked_types() -> type[Runner]:
    """Prove to the type checker that this is a runner."""
    return SimRunner
