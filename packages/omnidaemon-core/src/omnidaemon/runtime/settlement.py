"""Group commit: everything that has ended is settled together, then sent and acknowledged (design §3)."""

from __future__ import annotations

from collections.abc import Awaitable

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Delivery, Outcome, OutcomeKind
from omnidaemon.runtime.intake import Intake
from omnidaemon.runtime.job import Job
from omnidaemon.runtime.state import WorkerState

__all__ = ["Settlement"]

MAX_BATCH = 512


class Settlement:
    """One loop; it never gives up on an outcome while the process lives (D4, D17)."""

    def __init__(self, state: WorkerState, intake: Intake) -> None:
        self._state, self._intake = state, intake

    async def run(self) -> None:
        """Settle until the worker closes."""
        state = self._state
        while not state.closing:
            await state.clock.wait(state.wake_settle, 1.0)
            state.wake_settle.clear()
            while state.finished or state.doubtful:
                try:
                    await self.flush()
                except Closed:
                    return
                except BackendError:
                    break  # closing: what is not settled will be taken over

    async def flush(self) -> None:
        """Settle one batch, then send its follow-ups and acknowledge its deliveries."""
        state = self._state
        if state.finished:
            await self._settle()
        if state.doubtful:
            await self._resolve()

    async def _settle(self) -> None:
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
            if not ok:
                state.abandon(job)
                continue
            state.forget(job)
            self._follow(job, outcome)
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

    def _follow(self, job: Job, outcome: Outcome) -> None:
        state = self._state
        # The next of its lane may be in the inbox, and nothing else says that its turn has come.
        if outcome.kind is OutcomeKind.RETRY or (job.event is not None and job.event.lane is not None):
            state.wake_due.set()
        if outcome.outbox:
            state.outgoing.extend(row.event for row in outcome.outbox if row.delay <= 0 and row.deliver_at is None)
            state.wake_relay.set()

    async def _resolve(self) -> None:
        """Ask what became of runs that were not settled here: only that decides about their deliveries (M3).

        Done: acknowledged. Somebody else's: left to the inbox. Nobody's: claimed anew.
        """
        state = self._state
        deliveries, state.doubtful = state.doubtful, []
        await self._lossy(self._intake.claim(deliveries, state.clock.monotonic()))
