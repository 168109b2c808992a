"""Group commit: everything that has ended is settled together, then sent and acknowledged (design §3)."""

from __future__ import annotations

from collections.abc import Awaitable

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Ask, Delivery, GrantKind, Outcome, OutcomeKind
from omnidaemon.runtime.job import Job
from omnidaemon.runtime.state import WorkerState

__all__ = ["Settlement"]

MAX_BATCH = 512


class Settlement:
    """One loop; it never gives up on an outcome while the process lives (D4, D17)."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    async def run(self) -> None:
        """Settle until the worker closes."""
        state = self._state
        while not state.closing:
            await state.clock.wait(state.wake_settle, 1.0)
            state.wake_settle.clear()
            while state.finished:
                try:
                    await self.flush()
                except Closed:
                    return
                except BackendError:
                    break  # closing: what is not settled will be taken over

    async def flush(self) -> None:
        """Settle one batch, then send its follow-ups and acknowledge its deliveries."""
        state = self._state
        batch = [state.finished.popleft() for _ in range(min(MAX_BATCH, len(state.finished)))]
        outcomes = [outcome for _, outcome in batch]
        try:
            accepted = await state.insist("store", lambda: state.store.settle(outcomes))
        except BackendError:
            state.finished.extendleft(reversed(batch))
            raise
        acks: list[Delivery] = []
        back: list[Delivery] = []
        for (job, outcome), ok in zip(batch, accepted, strict=True):
            state.forget(job)
            if not ok:
                await self._refused(job)
                continue
            self._follow(outcome)
            if job.event is not None and job.event.lane is not None:
                # The next of its lane may be in the inbox, and nothing else says that its turn has come.
                state.wake_due.set()
            if job.delivery is None:
                continue
            if outcome.kind is OutcomeKind.HANDBACK:
                if not job.adopted:
                    back.append(job.delivery)
            elif state.fusion is None or job.adopted:
                acks.append(job.delivery)
        state.wake_intake.set()
        if acks:
            await self._lossy(state.bus.ack(acks))
        if back:
            await self._lossy(state.bus.give_back(back))

    async def _lossy(self, call: Awaitable[None]) -> None:
        """Await what may get lost: a redelivery repairs it (D18)."""
        try:
            await call
        except Closed:
            raise
        except BackendError as error:
            self._state.failed("bus", error)

    def _follow(self, outcome: Outcome) -> None:
        state = self._state
        if outcome.kind is OutcomeKind.RETRY:
            state.wake_due.set()
        if outcome.outbox:
            state.outgoing.extend(row.event for row in outcome.outbox if row.delay <= 0 and row.deliver_at is None)
            state.wake_relay.set()

    async def _refused(self, job: Job) -> None:
        """Ask what became of the run: only that decides about its delivery (M3)."""
        state, delivery = self._state, job.delivery
        if delivery is None:
            return
        ask = Ask(delivery.group, delivery.id, state.token(), job.subscription.lease, takeover=False)
        grant = (await state.insist("store", lambda: state.store.claim(state.name, [ask])))[0]
        if grant.kind in (GrantKind.FINISHED, GrantKind.CANCELED, GrantKind.HELD):
            await self._lossy(state.bus.ack([delivery]))
        elif grant.kind is GrantKind.GRANTED:
            # Nobody's: release it again and let the bus deliver it as if for the first time.
            outcome = Outcome(delivery.group, delivery.id, ask.token, OutcomeKind.HANDBACK)
            await state.insist("store", lambda: state.store.settle([outcome]))
            await self._lossy(state.bus.give_back([delivery]))
        elif grant.kind is GrantKind.GONE:
            await self._lossy(state.bus.give_back([delivery]))
