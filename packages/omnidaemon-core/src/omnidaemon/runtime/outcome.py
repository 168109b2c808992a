"""What an attempt's end means: completed, tried again, given up, waiting (D6-D8, D10-D13, R6)."""

from __future__ import annotations

import logging
import random
from typing import Any

from omnidaemon.model import histogram, jsontext
from omnidaemon.model.agent import DEFAULT_VERSION
from omnidaemon.model.errors import InvalidContent, InvalidEvent, NonRetryable, PayloadTooLarge, RetryAfter
from omnidaemon.model.run import Outcome, OutcomeKind, TaskState
from omnidaemon.ports.clock import Clock
from omnidaemon.runtime.followups import dead_letter_copy, reply
from omnidaemon.runtime.history import appended, describe, type_name
from omnidaemon.runtime.job import Job
from omnidaemon.runtime.parameters import InvalidContentForAgent
from omnidaemon.runtime.record import read_data
from omnidaemon.runtime.signals import AskSignal
from omnidaemon.settings import Settings

__all__ = ["Outcomes", "ResultError", "postponed"]

MAX_RETRY_AFTER = 100
# Trying again cannot help; looked up in this order.
_HOPELESS: dict[type[BaseException], str] = {
    InvalidContentForAgent: "invalid_content",
    PayloadTooLarge: "too_large",
    NonRetryable: "non_retryable",
    InvalidEvent: "non_retryable",
}
_rng = random.SystemRandom()
_logger = logging.getLogger("omnidaemon.worker")


def postponed(job: Job) -> int:
    """Return how often this generation of the run was postponed by ``RetryAfter``."""
    kept = read_data(job.grant.data).get("postponed", {})
    return int(kept["times"]) if kept.get("generation") == job.grant.generation else 0


class ResultError(Exception):
    """The agent ended well, and what it returned cannot be kept: trying again cannot help."""

    def __init__(self, error: InvalidEvent, reason: str) -> None:
        super().__init__(str(error))
        self.error, self.reason = error, reason


class Outcomes:
    """Turns what a runner returned or raised into the settle's outcome."""

    def __init__(self, settings: Settings, worker: str, clock: Clock) -> None:
        self._settings, self._worker, self._clock = settings, worker, clock
        self._runner_id = jsontext.dump(worker)

    def completed(self, job: Job, value: Any, ended: float) -> Outcome:
        """Return the outcome of a run that ended well.

        Raises:
            ResultError: The result cannot be kept, or its reply cannot be sent.
        """
        try:
            result = b"null" if value is None else jsontext.dump(value, "the result")
        except InvalidContent as error:
            raise ResultError(error, "unserializable_result") from None
        if len(result) > self._settings.max_event_bytes:
            size = f"the result has {len(result)} bytes and max_event_bytes is {self._settings.max_event_bytes}"
            raise ResultError(PayloadTooLarge(size), "too_large")
        outbox, event = job.followups, job.event
        if event is not None and event.payload.reply_to is not None:
            try:
                outbox = [*outbox, reply(job, event, jsontext.load(result), self._settings)]
            except InvalidEvent as error:
                reason = "too_large" if isinstance(error, PayloadTooLarge) else "non_retryable"
                raise ResultError(error, reason) from None
        outcome = self._base(job, OutcomeKind.FINAL, self._data(job, ended))
        outcome.result, outcome.outbox = result, outbox
        counts = self._counts(job, ended)
        counts.append(("processed", 1))
        outcome.counts = counts
        return outcome

    def failed(self, job: Job, error: BaseException, ended: float, *, timed_out: bool = False) -> Outcome:
        """Return the outcome of a run that raised: another attempt, or a dead letter."""
        policy = job.subscription.config.config.retry
        if isinstance(error, RetryAfter):
            return self._retry_after(job, error, ended)
        if isinstance(error, ResultError):
            return self._dead(job, error.error, error.reason, ended)
        for kind, reason in _HOPELESS.items():
            if isinstance(error, kind):
                return self._dead(job, error, reason, ended)
        if job.grant.attempt >= policy.max_attempts:
            return self._dead(job, error, "timeout" if timed_out else "max_attempts", ended)
        data = self._data(job, ended, error)
        outcome = self._base(job, OutcomeKind.RETRY, data)
        outcome.attempt = job.grant.attempt + 1
        outcome.delay = policy.delay(job.grant.attempt, _rng)
        outcome.counts = [*self._counts(job, ended), *_failure(error), ("retried", 1)]
        return outcome

    def _retry_after(self, job: Job, error: RetryAfter, ended: float) -> Outcome:
        spent = postponed(job) + 1
        event = job.event
        late = (
            event is not None
            and event.expires_at is not None
            and self._clock.time() + error.seconds >= event.expires_at
        )
        if spent > MAX_RETRY_AFTER or late:
            return self._dead(job, error, "retry_after_exhausted", ended)
        outcome = self._base(job, OutcomeKind.RETRY, self._data(job, ended, error, retry_after=spent))
        outcome.attempt = job.grant.attempt
        outcome.delay = error.seconds
        outcome.counts = [*self._counts(job, ended), ("postponed", 1)]
        return outcome

    def waiting(self, job: Job, signal: AskSignal, ended: float) -> Outcome:
        """Return the outcome of a run that asked a human."""
        asked = {
            "key": signal.key,
            "question": signal.question,
            "schema": signal.schema,
            "asked_at": round(self._clock.time(), 3),
        }
        outcome = self._base(job, OutcomeKind.WAIT, self._data(job, ended, asked=asked))
        outcome.question, outcome.delay = signal.key, signal.timeout
        outcome.counts = [*self._counts(job, ended), ("asked", 1)]
        return outcome

    def rejected(self, job: Job, why: str) -> Outcome:
        """Return the outcome of a run that must not start any more (D13)."""
        data = read_data(job.grant.data)
        data.update(runner_id=self._worker, rejected=why, ended=round(self._clock.time(), 3))
        outcome = self._base(job, OutcomeKind.FINAL, jsontext.dump(data))
        outcome.state = TaskState.REJECTED
        outcome.counts = [*_received(job), ("rejected", 1)]
        return outcome

    def hopeless(self, job: Job, reason: str, message: str) -> Outcome:
        """Return a dead letter for a run that was not started: undecodable, crash_loop, unanswered."""
        name = job.subscription.config.name
        _logger.error("agent %s, event %s: given up unrun (%s): %s", name, job.event_id, reason, message)
        return self._dead(job, NonRetryable(message), reason, 0.0)

    def handback(self, job: Job) -> Outcome:
        """Return the outcome of a run that is given up uncounted (M12)."""
        return self._base(job, OutcomeKind.HANDBACK, b"")

    def _dead(self, job: Job, error: BaseException, reason: str, ended: float) -> Outcome:
        config = job.subscription.config.config
        data = self._data(job, ended, error, reason=reason)
        outcome = self._base(job, OutcomeKind.FINAL, data)
        outcome.state = TaskState.FAILED
        outcome.dead = reason if config.dead_letter else None
        outcome.counts = [
            *self._counts(job, ended),
            *_failure(error),
            ("failed", 1),
            ("dead_lettered", int(config.dead_letter)),
        ]
        if config.dead_letter and config.dead_letter_topic is not None and job.event is not None:
            copy = dead_letter_copy(job, job.event, reason, self._settings)
            outcome.outbox = [] if copy is None else [copy]
        return outcome

    def _base(self, job: Job, kind: OutcomeKind, data: bytes) -> Outcome:
        return Outcome(
            group=job.subscription.group,
            event_id=job.event_id,
            token=job.token,
            kind=kind,
            data=data,
            body=None if job.adopted else job.body,
            ttl=self._settings.result_ttl,
            mark_ttl=self._settings.dedup_window,
            tenant=None if job.event is None else job.event.tenant_id,
            delivery=job.delivery,
        )

    def _data(
        self,
        job: Job,
        ended: float,
        error: BaseException | None = None,
        *,
        reason: str | None = None,
        retry_after: int | None = None,
        asked: dict[str, Any] | None = None,
    ) -> bytes:
        """Return the record's data: what ran where, how long each attempt and step took, and why it ended."""
        now, took = self._clock.time(), round(max(0.0, ended - job.started), 6) if job.started else 0.0
        context, version = job.context, job.subscription.config.version
        if (
            error is None
            and asked is None
            and not job.grant.data
            and (context is None or (context.steps is None and context.used is None))
        ):
            # The common case by far: keep it small and cheap.
            versioned = b"" if version == DEFAULT_VERSION else b',"version":%b' % jsontext.dump(version)
            return b'{"runner_id":%b,"ended":%.3f,"took":%.6f%b}' % (self._runner_id, now, took, versioned)
        data = read_data(job.grant.data)
        if version != DEFAULT_VERSION:
            data["version"] = version
        data.update(runner_id=self._worker, ended=round(now, 3), took=took)
        entry: dict[str, Any] = {
            "attempt": job.grant.attempt,
            "generation": job.grant.generation,
            "worker": self._worker,
            "started": round(now - took, 3),
            "took": took,
        }
        if context is not None:
            if context.steps:
                entry["steps"] = context.steps
            for name, amount in (context.used or {}).items():
                used = data.setdefault("usage", {})
                used[name] = used.get(name, 0) + amount
        if error is not None:
            entry |= describe(error)
            data["last_error"] = {"type": entry["error_type"], "message": entry["error"]}
        else:
            data.pop("last_error", None)
        if reason is not None:
            data["reason"] = reason
        if retry_after is not None:
            data["postponed"] = {"generation": job.grant.generation, "times": retry_after}
        data.pop("asked", None)
        if asked is not None:
            data["asked"] = asked
        data["history"] = appended(data.get("history", []), entry)
        return jsontext.dump(data, "the record")

    def _counts(self, job: Job, ended: float) -> list[tuple[str, float]]:
        counts = _received(job)
        if job.started:
            took = max(0.0, ended - job.started)
            counts.append(("seconds", took))
            counts.append((f"b:{histogram.bucket(took)}", 1))
        if job.context is not None and job.context.used is not None:
            counts.extend((f"usage:{name}", amount) for name, amount in job.context.used.items())
        return counts


def _received(job: Job) -> list[tuple[str, float]]:
    return [] if job.grant.data else [("received", 1)]


def _failure(error: BaseException) -> list[tuple[str, float]]:
    return [("attempts_failed", 1), (f"error:{type_name(error)}", 1)]
