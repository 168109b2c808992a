"""Events that a run causes: follow-ups, replies, copies of dead letters (design §4, ``api.md`` §4)."""

from __future__ import annotations

from typing import Any

from omnidaemon.model.envelope import EventEnvelope, derived_id
from omnidaemon.model.errors import InvalidEvent, TooManyHops
from omnidaemon.model.run import Deferred
from omnidaemon.runtime.job import Job
from omnidaemon.runtime.outgoing import build, checked
from omnidaemon.settings import Settings

__all__ = ["dead_letter_copy", "follow_up", "reply"]


def follow_up(
    job: Job, cause: EventEnvelope, topic: str, content: Any, fields: dict[str, Any], settings: Settings
) -> tuple[EventEnvelope, Deferred]:
    """Return an event caused by ``cause``: it inherits tenant, correlation, source and trace.

    Its id depends on run, topic and order only, so that a retry sends the same event again.

    Raises:
        TooManyHops: The chain of causes is too long.
        InvalidEvent: It could not be published by anybody.
    """
    if cause.hops + 1 > settings.max_hops:
        raise TooManyHops(
            f"event {cause.id} is {cause.hops} events away from the first of its chain and max_hops is"
            f" {settings.max_hops}: agents seem to call each other in a circle"
        )
    if "id" not in fields and fields.get("idempotency_key") is None:
        fields["id"] = _id_of(job, topic, str(len(job.followups)))
    inherited = {
        "tenant_id": cause.tenant_id,
        "correlation_id": cause.correlation_id or cause.id,
        "causation_id": cause.id,
        "source": cause.source,
        "traceparent": cause.traceparent,
        "tracestate": cause.tracestate,
    }
    event = build(topic, content, {**inherited, **fields, "hops": cause.hops + 1})
    return event, Deferred(checked(event, settings, webhooks=False), deliver_at=event.deliver_at)


def reply(job: Job, cause: EventEnvelope, value: Any, settings: Settings) -> Deferred:
    """Return the event that carries a result to the publisher's ``reply_to``; the webhook stays behind.

    Raises:
        InvalidEvent: It could not be published, by its size for example.
    """
    topic = str(cause.payload.reply_to)
    return follow_up(job, cause, topic, value, {"id": _id_of(job, topic, "reply")}, settings)[1]


def dead_letter_copy(job: Job, cause: EventEnvelope, reason: str, settings: Settings) -> Deferred | None:
    """Return a copy of a dead letter for ``dead_letter_topic``; None where it could not be published.

    The copy is an event of its own: nobody replies to it, and it neither expires nor waits in a lane.
    """
    config = job.subscription.config
    topic = str(config.config.dead_letter_topic)
    headers = {
        **(cause.headers or {}),
        "omnidaemon-dead-letter": reason,
        "omnidaemon-topic": cause.topic,
        "omnidaemon-agent": config.name,
    }
    fields = {"id": _id_of(job, topic, "dead"), "headers": headers, "created_at": cause.created_at}
    try:
        return follow_up(job, cause, topic, cause.content, fields, settings)[1]
    except InvalidEvent:
        return None  # the dead letter itself is kept in any case


def _id_of(job: Job, topic: str, what: str) -> str:
    group, generation = job.subscription.group, job.grant.generation
    return derived_id(group.topic, group.agent, str(group.epoch), job.event_id, str(generation), topic, what)
