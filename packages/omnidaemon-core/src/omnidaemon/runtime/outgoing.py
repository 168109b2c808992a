"""From what a publisher types to an event that every backend can carry."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from omnidaemon.model import jsontext
from omnidaemon.model.envelope import EventEnvelope, derived_id, encode, random_id
from omnidaemon.model.errors import InvalidEvent, PayloadTooLarge, TooManyHops
from omnidaemon.model.names import check_topic
from omnidaemon.model.run import Outgoing

if TYPE_CHECKING:
    from omnidaemon.settings import Settings

__all__ = ["build", "checked", "normalised_times"]

_FIELDS = frozenset(EventEnvelope.model_fields) | {"webhook", "reply_to", "delay"}


def normalised_times(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn ``delay`` into ``deliver_at`` and datetimes into seconds since the epoch.

    Raises:
        InvalidEvent: Both ``delay`` and ``deliver_at``, a negative delay, or no time at all.
    """
    delay = fields.pop("delay", None)
    if delay is not None:
        if fields.get("deliver_at") is not None:
            raise InvalidEvent("give either delay= or deliver_at=, not both")
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
            raise InvalidEvent(f"delay={delay!r} must be a number of seconds >= 0 or a timedelta")
        fields["deliver_at"] = time.time() + seconds
    for name in ("deliver_at", "expires_at"):
        value = fields.get(name)
        if isinstance(value, datetime):
            fields[name] = value.timestamp()
    return fields


def build(topic: str, content: Any, fields: dict[str, Any]) -> EventEnvelope:
    """Return the event of ``sdk.publish(topic, content, **fields)``.

    Raises:
        InvalidName: A topic outside the grammar, or a reserved one.
        InvalidEvent: An unknown field or one of the wrong type.
        InvalidContent: Content of a type that JSON does not have.
    """
    check_topic(topic)
    if fields and (unknown := fields.keys() - _FIELDS):
        raise InvalidEvent(f"unknown field {min(unknown)!r}; known: {', '.join(sorted(_FIELDS))}")
    if fields:
        fields = normalised_times({name: value for name, value in fields.items() if value is not None})
    if "id" not in fields:
        key = fields.get("idempotency_key")
        fields["id"] = random_id() if key is None else derived_id(fields.get("tenant_id"), topic, key)
    try:
        return _envelope(topic, jsontext.plain(content), fields)
    except ValidationError:
        # Models and dataclasses deeper inside become plain data; what is left is the publisher's error.
        plain = jsontext.load(jsontext.dump(content))
    try:
        return _envelope(topic, plain, fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidEvent(f"{where} has the value {str(first['input'])[:80]!r}: {first['msg']}") from None


def _envelope(topic: str, content: Any, fields: dict[str, Any]) -> EventEnvelope:
    payload = {"content": content}
    if "webhook" in fields or "reply_to" in fields:
        fields = dict(fields)
        payload |= {name: fields.pop(name) for name in ("webhook", "reply_to") if name in fields}
    return EventEnvelope.model_validate({"topic": topic, "payload": payload, **fields})


def checked(event: EventEnvelope, settings: Settings, *, webhooks: bool) -> Outgoing:
    """Return the event encoded, if it may be published.

    Raises:
        InvalidName: A topic outside the grammar, or a reserved one.
        InvalidContent: Content that would not come back unchanged.
        PayloadTooLarge: Above ``max_event_bytes``.
        TooManyHops: Above ``max_hops``.
        InvalidEvent: Due when it has expired, or a webhook without a deliverer.
    """
    check_topic(event.topic)
    if event.payload.reply_to is not None:
        check_topic(event.payload.reply_to)
    if event.payload.webhook is not None and not webhooks:
        raise InvalidEvent(
            "webhook= needs a package that delivers webhooks, and none is installed: pip install omnidaemon-webhooks"
        )
    if event.hops > settings.max_hops:
        raise TooManyHops(f"event {event.id} has {event.hops} hops and max_hops is {settings.max_hops}")
    for name in ("key", "session_id"):
        value = getattr(event, name)
        if value is not None and not 0 < len(value) <= 256:
            raise InvalidEvent(f"{name} has {len(value)} characters; use 1 to 256")
    for name in ("deliver_at", "expires_at"):
        value = getattr(event, name)
        if value is not None and not 0 <= value < float("inf"):
            raise InvalidEvent(
                f"{name}={value!r} must be seconds since the epoch or a datetime; leave it out for never"
            )
    if event.deliver_at is not None and event.expires_at is not None and event.deliver_at >= event.expires_at:
        raise InvalidEvent(
            f"deliver_at={event.deliver_at} is not before expires_at={event.expires_at}: it would never run"
        )
    body = encode(event)
    if len(body) > settings.max_event_bytes:
        raise PayloadTooLarge(
            f"the event for {event.topic!r} has {len(body)} bytes and max_event_bytes is {settings.max_event_bytes};"
            " keep large data elsewhere and send a reference"
        )
    return Outgoing(event.topic, event.id, body, event.lane)
