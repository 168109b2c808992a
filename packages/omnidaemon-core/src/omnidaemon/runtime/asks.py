"""What a worker asks of the store about a delivery."""

from __future__ import annotations

from omnidaemon.model.envelope import decode
from omnidaemon.model.errors import DecodeError
from omnidaemon.model.run import Adoption, Ask, Delivery
from omnidaemon.runtime.state import WorkerState

__all__ = ["adoption_of", "ask_for"]


def ask_for(state: WorkerState, delivery: Delivery) -> Ask:
    """Return the wish to run a delivery, with a token of its own."""
    lane, tenant = _attributes(delivery)
    return Ask(
        delivery.group,
        delivery.id,
        state.token(),
        state.subscriptions[delivery.group].lease,
        lane,
        delivery.after,
        tenant,
        takeover=state.may_take_over,
        position=delivery.position,
    )


def adoption_of(delivery: Delivery) -> Adoption:
    """Return the wish that the inbox takes a delivery over."""
    lane, tenant = _attributes(delivery)
    return Adoption(
        delivery.group, delivery.id, delivery.body, None, lane, delivery.after, tenant, position=delivery.position
    )


def _attributes(delivery: Delivery) -> tuple[str | None, str | None]:
    """Return lane and tenant; of what cannot be decoded, and becomes a dead letter, what the bus knows."""
    try:
        event = decode(delivery.body)
    except DecodeError:
        return delivery.key, None
    return event.lane, event.tenant_id
