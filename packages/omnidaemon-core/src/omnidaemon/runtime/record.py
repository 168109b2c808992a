"""What is kept of a task, and how an event is shown to callables and to readers of records."""

from __future__ import annotations

from typing import Any

from omnidaemon.model import jsontext
from omnidaemon.model.envelope import EventEnvelope

__all__ = ["message_of", "read_data"]


def read_data(data: bytes) -> dict[str, Any]:
    """Return a record's data; an empty dict for a run that has none yet."""
    return jsontext.load(data) if data else {}


def message_of(event: EventEnvelope, agent: str) -> dict[str, Any]:
    """Return the message dict that callables know (``surface.md`` §1.4)."""
    payload = event.payload
    return {
        "content": payload.content,
        "webhook": payload.webhook,
        "reply_to": payload.reply_to,
        "topic": event.topic,
        "task_id": event.id,
        "tenant_id": event.tenant_id,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "source": event.source,
        "delivery_attempts": event.delivery_attempts,
        "created_at": event.created_at,
        "session_id": event.session_id,
        "key": event.key,
        "headers": event.headers,
        "agent": agent,
    }
