"""From the bus and the inbox to the agents: read, claim, start (D1, D2, M4, M10, M14)."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence

from omnidaemon.model.envelope import SCHEMA_MAJOR, decode, schema_major
from omnidaemon.model.errors import BackendError, Closed, DecodeError
from omnidaemon.model.run import (
    Adoption,
    Ask,
    Delivery,
    DueWant,
    Grant,
    GrantKind,
    Group,
    OutcomeKind,
    TaskState,
)
from omnidaemon.ports.store import Due
from omnidaemon.runtime.asks import adoption_of, ask_for
from omnidaemon.runtime.job import Job, Subscription
from omnidaemon.runtime.outcome import Outcomes
from omnidaemon.runtime.spill import Spill
from omnidaemon.runtime.state import WorkerState

__all__ = ["Intake"]

READ_WAIT = 1.0
SATURATED_WAIT = 0.02
DUE_INTERVAL = 0.5
DUE_TIMEOUT = 5.0
# How far ahead of the free slots a fast agent's events are claimed, in seconds of its own rate.
AHEAD_SECONDS = 0.05
AHEAD_MAX = 1024
# A newer major schema version waits in the inbox for a worker that can read it (D9).
UNREADABLE_DELAY = 30.0


class Intake:
    """Two loops: ``fresh`` reads the bus, ``inbox`` asks the store what is due."""

    def __init__(self, state: WorkerState, outcomes: Outcomes) -> None:
        self._state, self._outcomes = state, outcomes
        # Calls that were never answered, and when they were first sent: asked again under their id
        # they hand out the same (M1), which may be as old as that (M4).
        self._taking: tuple[str, float] | None = None
        self._asking: tuple[str, float] | None = None
        self._placed: Collection[Group] = ()
        self._spill = Spill(state)
        self._rated = state.clock.monotonic()

    async def fresh(self) -> None:
        """Read, claim and start fresh events until the worker stops."""
        state = self._state
        while not state.stopping:
            state.wake_intake.clear()
            self._rate()
            try:
                await self._fresh()
            except Closed:
                return
            except BackendError as error:
                state.failed("bus", error)
                await state.clock.wait(state.wake_intake, state.retry_pause())

    async def _fresh(self) -> None:
        state = self._state
        # A room of 0 keeps the place in the group; what is gone has none to keep.
        want = {group: self._room(sub) for group, sub in state.subscriptions.items() if not sub.gone}
        if not state.may_start or len(state.finished) > 2 * AHEAD_MAX:
            want = dict.fromkeys(want, 0)
        else:
            await self._spill.once(want)
        if any(want.values()):
            saturated = any(not room and not state.subscriptions[group].paused for group, room in want.items())
            # What is read at the end of the wait must still be fresh (M4).
            wait = SATURATED_WAIT if saturated else min(READ_WAIT, state.shortest_lease / 3)
            await (self._take(want, wait) if state.fusion is not None else self._read(want, wait))
        elif all(group in want for group in self._placed):
            await state.clock.wait(state.wake_intake, READ_WAIT)
        else:
            await self._read(want, 0.0)

    async def _take(self, want: dict[Group, int], wait: float) -> None:
        state = self._state
        assert state.fusion is not None  # noqa: S101
        takeover = state.may_take_over
        wishes = {
            group: DueWant(room, state.subscriptions[group].lease, takeover=takeover)
            for group, room in want.items()
            if room
        }
        self._taking = call, sent = self._taking or (state.token(), state.clock.monotonic())
        pairs = await state.fusion.take(state.name, call, wishes, wait)
        self._taking = None
        state.recovered("bus")
        self._note_backlog(want, [delivery for delivery, _ in pairs])
        # The wait is part of the call: only what arrived late after it makes a grant stale.
        await self._sort(list(pairs), sent, wait)

    async def _read(self, want: dict[Group, int], wait: float) -> None:
        state = self._state
        sent = state.clock.monotonic()
        deliveries = await state.bus.read(want, wait)
        self._placed = want
        state.recovered("bus")
        self._note_backlog(want, deliveries)
        if deliveries:
            await self.claim(deliveries, sent)

    async def claim(self, deliveries: Sequence[Delivery], read_at: float) -> None:
        """Claim what was read at ``read_at`` (monotonic), unless that is too long ago (M4)."""
        state = self._state
        asks = [ask_for(state, delivery) for delivery in deliveries]
        deadline = read_at + state.shortest_lease
        sent = state.clock.monotonic()
        if not state.may_start or sent >= deadline:
            await state.bus.give_back(deliveries)
            return
        try:
            grants = await state.insist("store", lambda: self._claims(asks), until=deadline)
        except BackendError:
            # Nothing starts without a claim: give the events back uncounted (D16), claims of unknown fate too.
            for ask in asks:
                grant = Grant(GrantKind.GRANTED, token=ask.token)
                job = self._job(state.subscriptions[ask.group], ask.event_id, grant, b"", None, sent)
                state.finish(job, self._outcomes.handback(job))
            await state.bus.give_back(deliveries)
            return
        for ask, grant in zip(asks, grants, strict=True):
            grant.token = grant.token or ask.token
        await self._sort(list(zip(deliveries, grants, strict=True)), sent)

    def _claims(self, asks: list[Ask]) -> Awaitable[list[Grant]]:
        """Claim, with what may be taken over now: an outage may have come in between (M5)."""
        for ask in asks:
            ask.takeover = self._state.may_take_over
        return self._state.store.claim(self._state.name, asks)

    def _dues(self, call: str, want: dict[Group, DueWant]) -> Awaitable[Due]:
        for wish in want.values():
            wish.takeover = self._state.may_take_over
        return self._state.store.due(self._state.name, call, want)

    async def _sort(self, pairs: list[tuple[Delivery, Grant]], sent: float, waited: float = 0.0) -> None:
        """Start what was granted, and put away the rest."""
        state = self._state
        jobs: list[Job] = []
        finish: list[Delivery] = []
        adopt: list[tuple[Delivery, Adoption]] = []
        back: list[Delivery] = []
        for delivery, grant in pairs:
            subscription = state.subscriptions.get(delivery.group)
            kind = grant.kind
            if kind is GrantKind.GONE or subscription is None:
                if subscription is not None:
                    subscription.gone = True
                back.append(delivery)
            elif kind is GrantKind.GRANTED:
                jobs.append(self._job(subscription, delivery.id, grant, delivery.body, delivery, sent))
            elif kind in (GrantKind.BUSY, GrantKind.BEHIND, GrantKind.SUSPECT):
                adopt.append((delivery, adoption_of(delivery)))
            else:
                finish.append(delivery)
                if grant.unsent:
                    state.wake_relay.set()
        await self.start(jobs, sent + waited)
        if adopt:
            items = [item for _, item in adopt]
            taken = await state.insist("store", lambda: state.store.adopt(items))
            finish.extend(delivery for (delivery, _), ok in zip(adopt, taken, strict=True) if ok)
            state.wake_due.set()
        if finish:
            await state.bus.ack(finish)
        if back:
            await state.bus.give_back(back)

    def _job(
        self,
        subscription: Subscription,
        event_id: str,
        grant: Grant,
        body: bytes,
        delivery: Delivery | None,
        claimed: float,
    ) -> Job:
        job = Job(subscription, event_id, grant.token, grant, body, claimed, delivery)
        job.adopted = job.from_inbox = delivery is None
        self._state.jobs[job.token] = job
        self._state.idle.clear()
        return job

    async def start(self, jobs: list[Job], sent: float) -> None:
        """Hand claimed runs to the agents; those that must not run end here."""
        state = self._state
        if not jobs:
            return
        if state.clock.monotonic() - sent > state.shortest_lease / 3:
            jobs = await self._confirmed(jobs)
        runnable = []
        for job in jobs:
            if job.abort is not None:
                continue  # told to stop while its grant was confirmed; the agents' side reports it
            if not state.may_start or job.subscription.paused or job.subscription.gone:
                state.finish(job, self._outcomes.handback(job))
            elif self._fit(job):
                job.slot = True
                job.subscription.busy += 1
                job.subscription.from_inbox += job.from_inbox
                runnable.append(job)
        if runnable and state.to_agents is not None:
            state.to_agents.put(*runnable)

    async def _confirmed(self, jobs: list[Job]) -> list[Job]:
        """Renew grants that were long on their way; start only what is still ours (M4)."""
        state = self._state
        holds = [job.hold for job in jobs]
        answers = await state.insist("store", lambda: state.store.renew(holds))
        for job, ok in zip(jobs, answers, strict=True):
            if not ok:
                state.abandon(job)
        return [job for job, ok in zip(jobs, answers, strict=True) if ok]

    def _fit(self, job: Job) -> bool:
        """Decode the event; settle at once what is not to be run."""
        state, grant, config = self._state, job.grant, job.subscription.config.config
        try:
            job.event = decode(job.body)
        except DecodeError as error:
            state.finish(job, self._outcomes.hopeless(job, "undecodable", str(error)))
            return False
        if schema_major(job.event) > SCHEMA_MAJOR:
            state.unreadable += 1
            outcome = self._outcomes.handback(job)
            outcome.kind, outcome.attempt, outcome.delay = OutcomeKind.RETRY, grant.attempt, UNREADABLE_DELAY
            outcome.data, outcome.body = grant.data, job.body
            state.finish(job, outcome)
            return False
        if grant.attempt != 1:
            job.event = job.event.model_copy(update={"delivery_attempts": grant.attempt})
        if grant.lost >= config.retry.max_attempts + 3:
            message = f"{grant.lost} starts ended without an outcome: the agent seems to take its process down"
            state.finish(job, self._outcomes.hopeless(job, "crash_loop", message))
        elif grant.state is TaskState.INPUT_REQUIRED:
            state.finish(job, self._outcomes.hopeless(job, "unanswered", "the question was not answered in time"))
        elif job.event.expires_at is not None and job.event.expires_at <= state.clock.time():
            state.finish(job, self._outcomes.rejected(job, "expired"))
        else:
            return True
        return False

    async def inbox(self) -> None:
        """Ask what is due, and start it, until the worker stops."""
        state, pause = self._state, 0.0
        while not state.stopping:
            await state.clock.wait(state.wake_due, pause)
            state.wake_due.clear()
            if state.stopping:
                break
            try:
                pause = await self._due()
            except Closed:
                return
            except BackendError as error:
                state.failed("store", error)
                pause = state.retry_pause()
        if self._asking is not None:
            await self._due()  # what it granted is handed back (M12)

    async def _due(self) -> float:
        """Start what is due; return the seconds until the next look."""
        state = self._state
        if not state.may_start and not state.stopping:
            return DUE_INTERVAL
        alone = state.quiet and not state.jobs
        if state.quiet and not alone:
            return 0.05
        want = self._wishes(alone=alone)
        if not want:
            return DUE_INTERVAL
        until = state.clock.monotonic() + DUE_TIMEOUT
        self._asking = call, sent = self._asking or (state.token(), state.clock.monotonic())
        due = await state.insist("store", lambda: self._dues(call, want), until=until)
        self._asking = None
        state.inbox_waits = due.next_in is not None and due.next_in <= 0
        jobs = [
            self._job(state.subscriptions[group], grant.event_id, grant, grant.body, None, sent)
            for group, grants in due.grants.items()
            for grant in grants
        ]
        for group, wish in want.items():
            grants = due.grants.get(group, [])
            subscription = state.subscriptions[group]
            if wish.limit and subscription.inbox_ready:
                # With one slot, fresh events and the inbox take turns.
                subscription.inbox_ready = len(grants) >= wish.limit and subscription.limit > 1
                state.wake_intake.set()
            elif wish.limit:
                subscription.inbox_ready = len(grants) >= wish.limit and subscription.limit > 1
        state.quiet = bool(due.suspects) and not alone
        await self.start(jobs, sent)
        if state.quiet and state.to_agents is not None:
            return 0.05
        # What is due and not to be had yet, for want of room or of the right to take over, is not polled hard.
        least = 0.01 if state.may_take_over and all(wish.limit for wish in want.values()) else 0.05
        return min(DUE_INTERVAL, DUE_INTERVAL if due.next_in is None else max(least, due.next_in))

    def _wishes(self, *, alone: bool) -> dict[Group, DueWant]:
        """Return what can be started of the inbox now."""
        state, takeover = self._state, self._state.may_take_over
        return {
            group: DueWant(1 if alone else self._inbox_room(sub), sub.lease, alone=alone, takeover=takeover)
            for group, sub in state.subscriptions.items()
            if not sub.paused and not sub.gone
        }

    def _room(self, sub: Subscription) -> int:
        """How many fresh events an agent can start soon."""
        if sub.paused or sub.gone or self._state.quiet:
            return 0
        room = sub.limit + self._ahead(sub) - sub.busy
        if sub.inbox_ready:
            # A storm of retries gets half of the slots, and at least one (D6).
            room -= max(1, sub.limit // 2) - min(sub.from_inbox, sub.limit // 2)
        return max(0, room)

    def _inbox_room(self, sub: Subscription) -> int:
        room = sub.limit + self._ahead(sub) - sub.busy
        share = sub.limit if not sub.backlog else max(1, sub.limit // 2)
        wanted = max(0, min(room, share - sub.from_inbox))
        if wanted == 0 and sub.from_inbox == 0:
            # Fresh events hold every slot: the next one that becomes free is for the inbox.
            sub.inbox_ready = True
        return wanted

    @staticmethod
    def _ahead(sub: Subscription) -> int:
        return min(AHEAD_MAX, int(sub.rate * AHEAD_SECONDS))

    def _rate(self) -> None:
        now = self._state.clock.monotonic()
        elapsed = now - self._rated
        if elapsed < 0.02:
            return
        self._rated = now
        for sub in self._state.subscriptions.values():
            if sub.finished or sub.rate:
                sub.rate += (sub.finished / elapsed - sub.rate) * 0.5
                sub.finished = 0
                if sub.rate < 1:
                    sub.rate = 0.0

    def _note_backlog(self, want: dict[Group, int], deliveries: Sequence[Delivery]) -> None:
        seen: dict[Group, int] = {}
        for delivery in deliveries:
            seen[delivery.group] = seen.get(delivery.group, 0) + 1
        for group, room in want.items():
            sub = self._state.subscriptions.get(group)
            if sub is not None:
                sub.backlog = seen.get(group, 0) >= room
                sub.last_read = self._state.clock.time()
