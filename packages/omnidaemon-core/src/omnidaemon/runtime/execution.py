"""The agents' side of a worker: starts runners, times them out, and reports how they ended."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from omnidaemon.model.run import Outcome
from omnidaemon.ports.context import RUNNING
from omnidaemon.runtime.context import RunContext, Surroundings
from omnidaemon.runtime.history import text_of
from omnidaemon.runtime.job import Job, Subscription
from omnidaemon.runtime.outcome import Outcomes, ResultError
from omnidaemon.runtime.signals import AskSignal

__all__ = ["Execution"]


class Report(NamedTuple):
    """What the I/O side learns: an attempt has ended (``settled``), a slot is free (``freed``), or both.

    An ``outcome`` of None with ``settled`` means that the run is no longer this worker's.
    """

    job: Job
    outcome: Outcome | None
    settled: bool = True
    freed: bool = True


_logger = logging.getLogger("omnidaemon.worker")


class Execution:
    """Lives in the agents' loop; at most ``max_concurrency`` runs of an agent at a time (D2)."""

    def __init__(self, around: Surroundings, outcomes: Outcomes, report: Callable[[list[Report]], None]) -> None:
        self._around = around
        self._loop, self._outcomes, self._report = around.handover.app_loop, outcomes, report
        self._ended: list[Report] = []
        self._waiting: dict[Subscription, collections.deque[Job]] = {}
        self._running: dict[Subscription, int] = {}
        self.leftovers: set[Job] = set()

    def receive(self, items: list[Any]) -> None:
        """Take jobs to run, and ``(job, reason)`` pairs to abort."""
        for item in items:
            if isinstance(item, Job):
                queue = self._waiting.setdefault(item.subscription, collections.deque())
                queue.append(item)
                self._start_next(item.subscription)
            else:
                self._abort(*item)

    def _start_next(self, subscription: Subscription) -> None:
        queue = self._waiting.get(subscription)
        while queue and self._running.get(subscription, 0) < subscription.limit:
            job = queue.popleft()
            if job.abort is not None:
                continue
            self._running[subscription] = self._running.get(subscription, 0) + 1
            job.started = time.perf_counter()
            # The worker's state keeps the job, and the job its task, until it is settled.
            job.task = self._loop.create_task(self._run(job))

    def _abort(self, job: Job, reason: str) -> None:
        if job.outcome is not None or job.abort is not None:
            return
        if reason == "unstarted":
            if job.task is not None:
                return
            reason = "handback"
        job.abort = reason
        job.cancelled.set()
        if job.task is None:
            self._tell(Report(job, self._outcomes.handback(job) if reason == "handback" else None))
        elif not job.task.done():
            job.task.cancel()

    async def _run(self, job: Job) -> None:
        subscription, event = job.subscription, job.event
        assert event is not None  # noqa: S101 - an undecodable event never gets here
        context = RunContext(job, event, self._around)
        job.context = context
        outcome: Outcome | None = None
        reset = RUNNING.set(context)
        try:
            outcome = await self._attempt(job, context)
        except asyncio.CancelledError:
            if job.abort is None and not job.cancelled.is_set():
                # The agent cancelled itself, or something above it did: an ordinary failure.
                outcome = self._outcomes.failed(
                    job, RuntimeError("the run was cancelled from inside"), time.perf_counter()
                )
            elif job.abort == "handback":
                outcome = self._outcomes.handback(job)
        except KeyboardInterrupt:
            outcome = self._outcomes.handback(job)
            raise
        finally:
            RUNNING.reset(reset)
            job.outcome = outcome
            # Job and context know each other: parted here, they need no garbage collector.
            job.context = None
            freed = job.leftover is None or job.leftover.done()
            if freed:
                self._free(subscription)
            elif job.leftover is not None:
                self.leftovers.add(job)
                job.leftover.add_done_callback(lambda _: self._returned(job))
            self._tell(Report(job, outcome, freed=freed))

    async def _attempt(self, job: Job, context: RunContext) -> Outcome:
        config, event, limit = job.subscription.config.config, context.event, None
        try:
            if config.timeout is None:
                done = await job.subscription.runner.run(event, context)
            else:
                async with asyncio.timeout(config.timeout) as limit:
                    done = await job.subscription.runner.run(event, context)
                if limit.expired():
                    raise TimeoutError  # it swallowed its cancellation
            return self._outcomes.completed(job, done.value, time.perf_counter())
        except AskSignal as signal:
            return self._outcomes.waiting(job, signal, time.perf_counter())
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - whatever an agent raises
            timed_out = isinstance(error, TimeoutError) and limit is not None and limit.expired()
            if timed_out:
                job.cancelled.set()
                error = TimeoutError(f"the attempt took longer than timeout={config.timeout:g} s")
            outcome = self._outcomes.failed(job, error, time.perf_counter(), timed_out=timed_out)
            self._log_failure(job, error.error if isinstance(error, ResultError) else error, outcome)
            return outcome

    def _log_failure(self, job: Job, error: BaseException, outcome: Outcome) -> None:
        config = job.subscription.config
        extra = {"agent": config.name, "topic": config.topic, "event_id": job.event_id, "attempt": job.grant.attempt}
        if outcome.delay is not None:
            _logger.warning(
                "agent %s, event %s: attempt %d/%d failed: %s: %s; next try in %.1f s",
                config.name,
                job.event_id,
                job.grant.attempt,
                config.config.retry.max_attempts,
                type(error).__name__,
                text_of(error),
                outcome.delay,
                extra=extra,
            )
        else:
            reason = outcome.dead or "dead_letter=False"
            _logger.error(
                "agent %s, event %s: given up after attempt %d (%s)",
                config.name,
                job.event_id,
                job.grant.attempt,
                reason,
                exc_info=error,
                extra={**extra, "reason": reason},
            )

    def _returned(self, job: Job) -> None:
        self.leftovers.discard(job)
        self._free(job.subscription)
        self._tell(Report(job, None, settled=False))

    def _tell(self, report: Report) -> None:
        """Pass on all that ends in one turn of the loop together: a hand-over for each would cost the drain."""
        if not self._ended:
            self._loop.call_soon(self._pass_on)
        self._ended.append(report)

    def _pass_on(self) -> None:
        ended, self._ended = self._ended, []
        self._report(ended)

    def _free(self, subscription: Subscription) -> None:
        self._running[subscription] -= 1
        self._start_next(subscription)
