"""Keeps claims and deliveries while runs last, and hands long ones to the inbox (D4, D5, D15)."""

from __future__ import annotations

import logging
import sys
import threading
import traceback

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Adoption
from omnidaemon.runtime.job import Job
from omnidaemon.runtime.state import WorkerState

__all__ = ["Leases"]

_logger = logging.getLogger("omnidaemon.worker")


class Leases:
    """One loop in the I/O thread, which a blocking agent cannot stop."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._beat = state.clock.monotonic()
        self._agents_thread: int | None = None
        self._stalled = False

    async def run(self) -> None:
        """Renew every third of the shortest lease until the worker closes."""
        state = self._state
        while not state.closing:
            self._watch()
            await state.clock.wait(state.wake_leases, state.shortest_lease / 3)
            state.wake_leases.clear()
            if not state.jobs:
                continue
            try:
                await self._renew()
                await self._adopt()
                await self._extend()
            except Closed:
                return
            except BackendError as error:
                # Only the definite answer "not the owner" cancels: the runs go on (D4).
                state.failed("store", error)

    async def _renew(self) -> None:
        state = self._state
        jobs = list(state.jobs.values())
        answers = await state.store.renew([job.hold for job in jobs])
        state.recovered("store")
        for job, ok in zip(jobs, answers, strict=True):
            if not ok and job.outcome is None and job.token in state.jobs:
                self._lost(job)

    def _lost(self, job: Job) -> None:
        state, config = self._state, job.subscription.config
        _logger.warning(
            "agent %s, event %s: the run was taken over or cancelled; its outcome will be refused",
            config.name,
            job.event_id,
            extra={"agent": config.name, "event_id": job.event_id},
        )
        job.cancelled.set()
        if state.to_agents is not None:
            state.to_agents.put((job, "lost"))

    async def _adopt(self) -> None:
        """Give runs older than ``adopt_after`` to the inbox, and acknowledge them on the bus."""
        state = self._state
        age = state.clock.monotonic() - state.settings.adopt_after
        jobs = [
            job for job in state.jobs.values() if job.delivery is not None and not job.adopted and job.claimed <= age
        ]
        if not jobs:
            return
        items = [
            Adoption(
                job.subscription.group,
                job.event_id,
                job.body,
                job.token,
                None if job.event is None else job.event.lane,
                None,
                None if job.event is None else job.event.tenant_id,
            )
            for job in jobs
        ]
        answers = await state.store.adopt(items)
        taken = []
        for job, ok in zip(jobs, answers, strict=True):
            if ok and job.delivery is not None:
                job.adopted = True
                taken.append(job.delivery)
        if taken:
            await state.bus.ack(taken)

    async def _extend(self) -> None:
        state = self._state
        held = [job.delivery for job in state.jobs.values() if job.delivery is not None and not job.adopted]
        if held and state.fusion is None:
            try:
                await state.bus.extend(held)
                state.recovered("bus")
            except Closed:
                raise
            except BackendError as error:
                state.failed("bus", error)  # a redelivery meets the claim

    def _watch(self) -> None:
        """Log the stack of whatever has kept the agents' loop for longer than a third of the lease."""
        state = self._state
        loop = state.handover.app_loop
        if loop is state.handover.io_loop:
            return
        now, limit = state.clock.monotonic(), state.shortest_lease / 3
        if self._agents_thread is not None and now - self._beat > 1.5 * limit:
            frame = sys._current_frames().get(self._agents_thread)  # noqa: SLF001 - the documented way to it
            if not self._stalled and frame is not None:
                stack = "".join(traceback.format_stack(frame))
                _logger.warning(
                    "the agents' event loop is blocked for %.1f s now; use a sync function or isolation='thread':\n%s",
                    now - self._beat,
                    stack,
                )
            self._stalled = True
            return
        self._stalled = False
        try:
            loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            return  # the agents' loop has been closed

    def _answer(self) -> None:
        self._agents_thread = threading.get_ident()
        self._beat = self._state.clock.monotonic()
