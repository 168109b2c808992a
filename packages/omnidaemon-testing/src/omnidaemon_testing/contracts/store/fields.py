"""The optional fields of asks and outcomes, so that helpers which pass them on are checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from omnidaemon.model.run import Counts, Deferred, TaskState

__all__ = ["AskFields", "OutcomeFields"]


class AskFields(TypedDict, total=False):
    """See :class:`omnidaemon.model.run.Ask`."""

    token: str
    lease: float
    lane: str | None
    after: str | None
    tenant: str | None
    takeover: bool


class OutcomeFields(TypedDict, total=False):
    """See :class:`omnidaemon.model.run.Outcome`."""

    state: TaskState
    data: bytes
    result: bytes | None
    body: bytes | None
    attempt: int
    delay: float | None
    question: str | None
    dead: str | None
    ttl: float
    mark_ttl: float
    outbox: Sequence[Deferred]
    counts: Counts
    tenant: str | None
