"""The event as it is published, kept and handed to agents (design §4)."""

# Without postponed annotations: pydantic would have to evaluate each of them again.
import os
import time
import uuid
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from omnidaemon.model import jsontext
from omnidaemon.model.errors import DecodeError

__all__ = [
    "SCHEMA_MAJOR",
    "EventEnvelope",
    "PayloadBase",
    "decode",
    "derived_id",
    "encode",
    "random_id",
    "schema_major",
]

SCHEMA_MAJOR = 1
_NAMESPACE = uuid.UUID("6a1f0f7e-5f0c-5d0e-9a53-2f8d0f0c7a11")


def random_id() -> str:
    """Return a uuid4 as text; :mod:`uuid` takes four times as long to say the same."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class PayloadBase(BaseModel):
    """What the publisher sends.

    Attributes:
        content: Any JSON value.
        webhook: URL that gets the final outcome.
        reply_to: Topic that gets the result as an event.
    """

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    content: JsonValue = None
    webhook: str | None = None
    reply_to: str | None = None


class EventEnvelope(BaseModel):
    """One event. Times are seconds since the epoch, on the publisher's clock.

    Attributes:
        id: Unique within a deployment; publishing it again does not run an agent again (rule P4).
        topic: Where it is published.
        payload: Content, webhook and reply topic.
        tenant_id: An attribute that reaches agent, record, reply and every query (rule T4).
        created_at: When the publisher made it.
        correlation_id: Shared by all events of one piece of business.
        causation_id: Id of the event or task that caused this one.
        source: Who published it.
        delivery_attempts: The attempt it is delivered for; 1 when published.
        idempotency_key: Without an explicit id, makes the id: uuid5 of tenant, topic and key.
        key: Events of one key run one at a time and in order, per agent (rule D12).
        deliver_at: Not on the topic before this time (rule P5).
        expires_at: Not run after this time (rule D13).
        session_id: Agent conversation; its events run one at a time (rule R5).
        headers: The user's own strings.
        traceparent: W3C trace context.
        tracestate: W3C trace context.
        hops: Number of events in the chain that caused this one.
        schema_version: ``major.minor`` of this envelope's shape.
    """

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    id: Annotated[str, Field(min_length=1, max_length=200)] = Field(default_factory=random_id)
    topic: str
    payload: PayloadBase
    tenant_id: str | None = None
    created_at: float = Field(default_factory=time.time)
    correlation_id: str | None = None
    causation_id: str | None = None
    source: str | None = None
    delivery_attempts: Annotated[int, Field(ge=1)] = 1
    idempotency_key: str | None = None
    key: str | None = None
    deliver_at: float | None = None
    expires_at: float | None = None
    session_id: str | None = None
    headers: dict[str, str] | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    hops: Annotated[int, Field(ge=0)] = 0
    schema_version: str = "1.0"

    @property
    def content(self) -> Any:
        """The payload's content."""
        return self.payload.content

    @property
    def lane(self) -> str | None:
        """What this event must not overtake: its session, else its key (rules R5, D12)."""
        if self.session_id is not None:
            return f"s:{self.session_id}"
        return None if self.key is None else f"k:{self.key}"

    def to_cloudevent(self) -> dict[str, Any]:
        """Return the event as CloudEvents 1.0 in JSON format."""
        from omnidaemon.model.cloudevents import to_cloudevent

        return to_cloudevent(self)

    @classmethod
    def from_cloudevent(cls, event: dict[str, Any]) -> "EventEnvelope":
        """Return the envelope of a CloudEvent; raises ``DecodeError`` for what is none."""
        from omnidaemon.model.cloudevents import from_cloudevent

        return from_cloudevent(event)


def encode(event: EventEnvelope) -> bytes:
    """Return the event as it travels; raises ``InvalidContent`` for what would not come back unchanged."""
    fields = {name: value for name, value in event.__dict__.items() if value is not None}
    payload = event.payload
    fields["payload"] = {name: value for name, value in payload.__dict__.items() if value is not None}
    fields["payload"]["content"] = payload.content
    if payload.__pydantic_extra__:
        fields["payload"].update(payload.__pydantic_extra__)
    if event.__pydantic_extra__:
        fields.update(event.__pydantic_extra__)
    return jsontext.dump_validated(fields, jsontext.MAX_DEPTH + jsontext.ENVELOPE_DEPTH)


def decode(body: bytes) -> EventEnvelope:
    """Return the event of ``body``.

    Raises:
        DecodeError: Not JSON, or not the shape of an event.
    """
    try:
        return EventEnvelope.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise DecodeError(f"not an event: {where}: {first['msg']}") from None


def schema_major(event: EventEnvelope) -> int:
    """Return the major number of the event's schema version; 0 when it is no number."""
    head = event.schema_version.split(".", 1)[0]
    return int(head) if head.isdigit() else 0


def derived_id(*parts: str | None) -> str:
    """Return a uuid5 of ``parts``: the same parts give the same id in every process."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join("" if part is None else f"={part}" for part in parts)))
