"""Knows what has happened, and says at each step what must not have (design §5, §7)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from omnidaemon.model.run import Group, Outcome, OutcomeKind, TaskState
from omnidaemon.ports.ledger import OutboxRow, RunRow

if TYPE_CHECKING:
    from omnidaemon.runtime.job import Job
    from simulation.loop import Process
    from simulation.world import World

__all__ = ["Key", "Oracle"]

Key = tuple[str, str, str]
PAUSE_GRACE = 2.0
TAKEOVER_GRACE = 5.0


class Oracle:
    """Watches the rows of the store and the runs of the agents; collects what is wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.tokens: set[tuple[Group, str, str]] = set()
        # A late repetition of a call may give a token again that was handed back unused.
        self.returned: set[tuple[Group, str, str]] = set()
        self.closed: Counter[tuple[Group, str, int, int]] = Counter()
        self.finals: Counter[tuple[Group, str, int]] = Counter()
        self.ended: set[tuple[Group, str]] = set()
        self.postponed: Counter[tuple[Group, str, int]] = Counter()
        self.handed_back: Counter[tuple[Group, str, int, int]] = Counter()
        self.reopened: Counter[tuple[Group, str]] = Counter()
        self.counts: dict[tuple[str, str], dict[str, float]] = {}
        self.followups: dict[tuple[str, str], Key] = {}
        self.calls: Counter[tuple[Group, str, int, int]] = Counter()
        self.running: Counter[tuple[str, Group]] = Counter()
        self.steps: dict[tuple[Group, str, int, str], Any] = {}
        self.paused: dict[str, float] = {}
        self.orphans: dict[tuple[Group, str, str], float] = {}
        self.bombs: Counter[str] = Counter()
        self.lost = 0
        self.moved_at = 0.0

    def wrong(self, text: str) -> None:
        """Note a violation."""
        self.violations.append(f"at {self.world.loop.time():.3f}: {text}")
        self.world.trace("!!", text)

    # --- rows ---------------------------------------------------------------------------------

    def transition(self, old: RunRow | None, new: RunRow, now: float) -> None:
        """Judge one write of a run."""
        what = f"{new.group.agent}.{new.group.epoch} {new.event_id}"
        agent = self.world.tables._agents.get((new.group.topic, new.group.agent))
        if agent is None or agent.epoch != new.group.epoch:
            self.wrong(f"resurrection: {what} is written though its epoch has ended")
        if old is not None and old.group.epoch > new.group.epoch:
            self.wrong(f"resurrection: {what} replaces a run of epoch {old.group.epoch}")
        if old is not None and old.group != new.group:
            old = None
        if old is None:
            if not new.state.final and new.generation == 0 and self.world.tables.mark(new.group, new.event_id):
                self.wrong(f"{what} begins again though it has a done mark")
        else:
            self._continued(old, new, now, what)
        if new.state.final:
            self.ended.add((new.group, new.event_id))
        if new.token is not None and (old is None or old.token != new.token):
            self._claimed(new, what)
        self.lost += max(0, new.lost - (0 if old is None else old.lost))

    def _continued(self, old: RunRow, new: RunRow, now: float, what: str) -> None:
        if new.generation < old.generation:
            self.wrong(f"{what}: generation falls from {old.generation} to {new.generation}")
        elif new.generation > old.generation:
            waiting = old.state is TaskState.INPUT_REQUIRED and old.token is None
            if not (old.state.final or waiting) or new.op == old.op:
                self.wrong(f"{what}: generation {new.generation} opens while {old.state}, op {new.op}")
            self.reopened[new.group, new.event_id] += 1
        else:
            if old.state.final and (new.state is not old.state or new.token is not None):
                self.wrong(f"{what}: {old.state} becomes {new.state} without a new generation")
            if new.attempt not in (old.attempt, old.attempt + 1):
                self.wrong(f"{what}: attempt goes from {old.attempt} to {new.attempt}")
        if old.token is not None and new.token != old.token:
            settled = new.spent == old.token
            cancelled = new.state is TaskState.CANCELED and old.state is not TaskState.CANCELED
            expired = old.lease_until <= now and new.lost == old.lost + 1
            if not (settled or cancelled or expired):
                self.wrong(f"{what}: the live claim {old.token} of {old.worker} goes to {new.token} of {new.worker}")
        if new.lost > old.lost and (old.token is None or old.lease_until > now):
            self.wrong(f"{what}: a lost start is counted though no claim has expired")

    def _claimed(self, new: RunRow, what: str) -> None:
        token = (new.group, new.event_id, str(new.token))
        if token in self.tokens and token not in self.returned:
            self.wrong(f"{what}: token {new.token} is given twice")
        self.tokens.add(token)
        self.world.trace("claim", f"{what} by {new.worker} g{new.generation} n{new.attempt} lost {new.lost}")
        agent = self.world.tables._agents.get((new.group.topic, new.group.agent))
        if agent is None or agent.deleted:
            self.wrong(f"{what} is claimed though its agent is deleted")
        for orphan in [key for key in self.orphans if key[:2] == (new.group, new.event_id)]:
            del self.orphans[orphan]
        if new.lane is not None and new.state is not TaskState.INPUT_REQUIRED:
            self._lane(new, what)

    def _lane(self, new: RunRow, what: str) -> None:
        tables, group = self.world.tables, new.group
        for row in tables.live(group):
            running = row.token is not None and row.state is not TaskState.INPUT_REQUIRED
            if running and row.lane == new.lane and row.event_id != new.event_id:
                self.wrong(f"{what} starts in lane {new.lane} while {row.event_id} is claimed")
        if new.generation:
            return
        for event_id in self.world.earlier(group, new.event_id):
            other = tables.run(group.topic, group.agent, event_id)
            if other is None or other.group != group:
                if (group, event_id) not in self.ended:
                    self.wrong(f"{what} overtakes {event_id} of lane {new.lane}, which nobody has met")
            elif not (other.state.final or other.generation or other.state is TaskState.INPUT_REQUIRED):
                self.wrong(f"{what} overtakes {event_id} of lane {new.lane}, which is {other.state}")

    def dropped(self, row: RunRow) -> None:
        """Judge the removal of a run."""
        if row.token is not None:
            for orphan in [key for key in self.orphans if key[:2] == (row.group, row.event_id)]:
                del self.orphans[orphan]

    def planned(self, row: OutboxRow, *, inserted: bool) -> None:
        """Note a follow-up or a delayed event that the store has accepted."""
        if row.source is not None:
            key = (row.source.topic, row.source.agent, row.source_event)
            known = self.followups.setdefault((row.event.topic, row.event.id), key)
            if not inserted or known != key:
                self.wrong(f"follow-up {row.event.id} of {key} was planned before, by {known}")

    def accepted(self, outcome: Outcome, row: RunRow) -> None:
        """Judge a settle that the store has accepted for the first time; ``row`` is from before."""
        group, event_id = outcome.group, outcome.event_id
        what = f"{group.agent}.{group.epoch} {event_id} g{row.generation} n{row.attempt}"
        self.world.trace("settle", f"{what} {outcome.kind} {outcome.state if outcome.kind == 'final' else ''}")
        if row.token != outcome.token or row.state.final:
            self.wrong(f"{what}: a settle of {outcome.token} is accepted, the claim is {row.token}, {row.state}")
        self.moved_at = self.world.loop.time()
        counts = self.counts.setdefault((group.topic, group.agent), {})
        for name, value in outcome.counts:
            counts[name] = counts.get(name, 0.0) + value
        if outcome.kind is OutcomeKind.HANDBACK:
            self.returned.add((group, event_id, outcome.token))
            self.handed_back[group, event_id, row.generation, row.attempt] += 1
            return
        if outcome.kind is OutcomeKind.RETRY and outcome.attempt == row.attempt:
            self.postponed[group, event_id, row.generation] += 1
            return
        if row.state is not TaskState.INPUT_REQUIRED:
            self._attempt_closed(outcome, row, what)
        if outcome.kind is OutcomeKind.FINAL:
            self.finals[group, event_id, row.generation] += 1
            if self.finals[group, event_id, row.generation] > 1:
                self.wrong(f"{what}: two final outcomes")

    def _attempt_closed(self, outcome: Outcome, row: RunRow, what: str) -> None:
        key = (outcome.group, outcome.event_id, row.generation, row.attempt)
        self.closed[key] += 1
        if self.closed[key] > 1:
            self.wrong(f"{what}: two settles of one attempt are accepted")

    # --- runs ---------------------------------------------------------------------------------

    def begins(self, process: Process, job: Job) -> None:
        """Judge the start of an agent."""
        world, group, now = self.world, job.subscription.group, self.world.loop.time()
        what = f"{group.agent}.{group.epoch} {job.event_id} g{job.grant.generation} n{job.grant.attempt}"
        world.trace("run", f"{what} in {process.name}")
        self.calls[group, job.event_id, job.grant.generation, job.grant.attempt] += 1
        self.running[process.name, group] += 1
        if self.running[process.name, group] > job.subscription.limit:
            self.wrong(f"{what}: {self.running[process.name, group]} run at a time in {process.name}")
        undisturbed = process.disturbed_at < job.claimed and world.disturbed_at < job.claimed
        row = world.tables.run(group.topic, group.agent, job.event_id)
        if undisturbed and row is not None and row.group == group and row.state is not TaskState.CANCELED:
            if row.token != job.token:
                self.wrong(f"{what} starts in {process.name} without a claim: {row.token} is not {job.token}")
            elif row.lease_until <= world.store_clock.time():
                self.wrong(f"{what} starts in {process.name} with an expired claim")
        paused = self.paused.get(f"pause:{group.topic}:{group.agent}")
        if paused is not None and now - paused > PAUSE_GRACE and max(process.disturbed_at, world.disturbed_at) < paused:
            self.wrong(f"{what} starts in {process.name} though the agent was paused {now - paused:.2f} s ago")

    def ends(self, process: Process, job: Job) -> None:
        """Note the end of an agent's run."""
        self.running[process.name, job.subscription.group] -= 1

    def step(self, job: Job, name: str, value: Any) -> None:
        """Judge the value of a step, as a run saw it."""
        key = (job.subscription.group, job.event_id, job.grant.generation, name)
        row = self.world.tables.run(key[0].topic, key[0].agent, job.event_id)
        if row is None or row.token != job.token:
            return
        if self.steps.setdefault(key, value) != value:
            self.wrong(f"{key[0].agent} {job.event_id}: step {name} was {self.steps[key]} and is {value}")

    def flag(self, key: str, *, up: bool) -> None:
        """Note that a pause flag was written."""
        if up:
            self.paused.setdefault(key, self.world.loop.time())
        else:
            self.paused.pop(key, None)

    # --- kills --------------------------------------------------------------------------------

    def died(self, process: Process) -> None:
        """Note what a killed worker leaves behind: it is to be taken over in time (D3)."""
        now = self.world.loop.time()
        for agent in self.world.tables.agents():
            for row in self.world.tables.live(agent.group):
                if row.token is not None and row.worker == process.name:
                    lease = self.world.lease(agent.group)
                    self.orphans[row.group, row.event_id, str(row.token)] = now + lease + TAKEOVER_GRACE

    def look(self) -> None:
        """Judge what should have happened by now."""
        now = self.world.loop.time()
        for (group, event_id, token), deadline in list(self.orphans.items()):
            row = self.world.tables.run(group.topic, group.agent, event_id)
            if row is None or row.token != token:
                del self.orphans[group, event_id, token]
            elif now > deadline and self.world.profile.theme == "kill":
                self.wrong(f"{group.agent} {event_id} of a killed worker is not taken over in lease + 5 s")
