"""Publishing from the caller's own event loop, without a hop (design §3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Unpack, cast

from omnidaemon.model.envelope import EventEnvelope, derived_id
from omnidaemon.model.errors import BackendError, InvalidEvent, NotAttempted, OmniDaemonError, UnsupportedCapability
from omnidaemon.model.run import Deferred, Outgoing
from omnidaemon.runtime.outgoing import build, checked
from omnidaemon.sdk.base import Base
from omnidaemon.sdk.handles import EventHandle, TaskHandle

if TYPE_CHECKING:
    from omnidaemon.sdk.fields import EventFields

__all__ = ["Publishing"]

ORDERED_BUSES = "memory, sqlite, redis_stream, kafka, rabbitmq, nats"


class Publishing(Base):
    """The publishing part of :class:`OmniDaemonSDK`."""

    webhooks = False

    async def publish(
        self, topic: str | EventEnvelope, content: Any = None, **fields: Unpack[EventFields]
    ) -> EventHandle:
        """Publish one event durably and return its handle.

        Args:
            topic: The topic, or a whole envelope (then nothing else).
            content: Any JSON value, pydantic model or dataclass.
            **fields: ``key tenant_id idempotency_key deliver_at delay expires_at reply_to webhook
                correlation_id causation_id session_id source headers id``.

        Raises:
            InvalidEvent: The event cannot be; nothing was sent.
            PublishUncertain: Sent, outcome unknown; publishing it again with the same id is safe.
            BackendError: Not sent.
        """
        event = self._event(topic, content, cast("dict[str, Any]", fields))
        outgoing = checked(event, self.settings, webhooks=self.webhooks)
        pair = await self.connections.get()
        self._check_order(event)
        if event.deliver_at is not None:
            await pair.store.defer([Deferred(self._laned(outgoing), deliver_at=event.deliver_at)])
        else:
            answer = (await pair.bus.publish([self._laned(outgoing)], self.settings.publish_timeout))[0]
            if isinstance(answer, Exception):
                raise answer
        return EventHandle(self, event.id, event.topic, event.lane)

    async def publish_many(
        self, events: Iterable[EventEnvelope | tuple[str, Any] | tuple[str, Any, dict[str, Any]]]
    ) -> list[EventHandle | Exception]:
        """Publish many events for the price of one round trip, with an outcome for each (P8).

        Args:
            events: Envelopes, or ``(topic, content)`` or ``(topic, content, fields)``.

        Returns:
            A handle or the exception, in the order given. After a failed event, later ones of the
            same key are ``NotAttempted``.
        """
        outcomes: list[EventHandle | Exception] = []
        now: list[tuple[int, Outgoing]] = []
        later: list[tuple[int, Deferred]] = []
        failed: set[tuple[Any, Any]] = set()
        for index, item in enumerate(events):
            lane = _lane(item)
            try:
                event, outgoing = self._prepared(item, lane, failed)
            except OmniDaemonError as error:
                outcomes.append(error)
                if lane[1] is not None:
                    failed.add(lane)
                continue
            outcomes.append(EventHandle(self, event.id, event.topic, event.lane))
            if event.deliver_at is None:
                now.append((index, self._laned(outgoing)))
            else:
                later.append((index, Deferred(self._laned(outgoing), deliver_at=event.deliver_at)))
        await self._send(now, later, outcomes)
        return outcomes

    async def _send(
        self,
        now: list[tuple[int, Outgoing]],
        later: list[tuple[int, Deferred]],
        outcomes: list[EventHandle | Exception],
    ) -> None:
        """Send what can be sent and write down, at its index, what became of the rest."""
        pair = await self.connections.get()
        if later:
            try:
                await pair.store.defer([row for _, row in later])
            except BackendError as error:
                # The others' outcomes must not be hidden by it.
                for index, _ in later:
                    outcomes[index] = error
        if now:
            answers = await pair.bus.publish([outgoing for _, outgoing in now], self.settings.publish_timeout)
            for (index, _), answer in zip(now, answers, strict=True):
                if isinstance(answer, Exception):
                    outcomes[index] = answer

    def _prepared(
        self, item: Any, lane: tuple[Any, Any], failed: set[tuple[Any, Any]]
    ) -> tuple[EventEnvelope, Outgoing]:
        if lane in failed:
            raise NotAttempted(f"an earlier event of key {lane[1]!r} for {lane[0]!r} failed: publish both again")
        event = self._from_item(item)
        self._check_order(event)
        return event, checked(event, self.settings, webhooks=self.webhooks)

    async def publish_task(self, event_envelope: EventEnvelope) -> str:
        """Publish an envelope and return its id: the 0.1 name of :meth:`publish`."""
        return (await self.publish(event_envelope)).id

    def task(self, task_id: str) -> TaskHandle:
        """Return the handle of a task id, or of a bare event id under the one-agent rule."""
        return TaskHandle.of(self, task_id)

    def _event(self, topic: str | EventEnvelope, content: Any, fields: dict[str, Any]) -> EventEnvelope:
        if not isinstance(topic, EventEnvelope):
            return build(topic, content, fields)
        if content is not None or fields:
            raise InvalidEvent("publish(envelope) takes nothing else: put content and fields into the envelope")
        if topic.idempotency_key is None or "id" in topic.model_fields_set:
            return topic
        # The key makes the id, unless the publisher gave one (P4).
        return topic.model_copy(update={"id": derived_id(topic.tenant_id, topic.topic, topic.idempotency_key)})

    def _from_item(self, item: Any) -> EventEnvelope:
        if isinstance(item, EventEnvelope):
            return self._event(item, None, {})
        if not isinstance(item, tuple) or len(item) not in (2, 3) or not isinstance(item[-1] if item[2:] else {}, dict):
            raise InvalidEvent(
                f"publish_many takes envelopes, (topic, content) or (topic, content, fields), not {item!r:.80}"
            )
        return self._event(item[0], item[1], dict(*item[2:]))

    def _check_order(self, event: EventEnvelope) -> None:
        bus = self.choose().bus
        if event.key is not None and not bus.capabilities.ordered_by_key:
            raise UnsupportedCapability(
                f"key={event.key!r} needs a bus that hands one key's events to one reader at a time, and"
                f" {bus.capabilities.name!r} does not; these do: {ORDERED_BUSES}"
            )

    def _laned(self, outgoing: Outgoing) -> Outgoing:
        """Leave the lane of a session to the store where the bus cannot order by key."""
        if outgoing.key is not None and not self.choose().bus.capabilities.ordered_by_key:
            outgoing.key = None
        return outgoing


def _lane(item: Any) -> tuple[Any, Any]:
    """Return topic and ordering key of an item of ``publish_many``, which may be anything."""
    if isinstance(item, EventEnvelope):
        return item.topic, item.key
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[2], dict):
        key = item[2].get("key")
        return item[0] if isinstance(item[0], str) else None, key if isinstance(key, str) else None
    return None, None
