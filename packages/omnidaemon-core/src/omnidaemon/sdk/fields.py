"""The fields of an event that ``publish`` takes, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

from omnidaemon.model.durations import Duration

__all__ = ["EventFields"]


class EventFields(TypedDict, total=False):
    """See :class:`omnidaemon.EventEnvelope` for what each means; ``delay`` is ``deliver_at`` from now on."""

    key: str | None
    tenant_id: str | None
    idempotency_key: str | None
    deliver_at: datetime | float | None
    delay: Duration | None
    expires_at: datetime | float | None
    reply_to: str | None
    webhook: str | None
    correlation_id: str | None
    causation_id: str | None
    session_id: str | None
    source: str | None
    headers: Mapping[str, str] | None
    id: str | None
    created_at: float | None
    traceparent: str | None
    tracestate: str | None
    hops: int | None
    schema_version: str | None
