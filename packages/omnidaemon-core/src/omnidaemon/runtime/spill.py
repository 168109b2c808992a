"""What a full worker's partitions still hold goes into the inbox, where idle workers find it (M13)."""

from __future__ import annotations

from omnidaemon.model.run import Group
from omnidaemon.runtime.asks import adoption_of
from omnidaemon.runtime.state import WorkerState

__all__ = ["Spill"]

# Seconds between two looks at an agent that is full all the while; each moves as many events as it has slots.
PACE = 1.0


class Spill:
    """Used by the intake of a worker whose bus hands each partition to one reader."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._full: dict[Group, float] = {}

    async def once(self, room: dict[Group, int]) -> None:
        """Move some events of agents without room, unless the inbox holds what nobody takes."""
        state = self._state
        if state.fusion is not None or state.bus.capabilities.redelivery != "position":
            return
        now = state.clock.monotonic()
        self._full = {group: self._full.get(group, now) for group, free in room.items() if self._blocked(group, free)}
        due = {group: state.subscriptions[group].limit for group, since in self._full.items() if now - since >= PACE}
        if not due or state.inbox_waits:
            return
        self._full.update(dict.fromkeys(due, now))
        deliveries = await state.bus.read({**dict.fromkeys(room, 0), **due}, 0.0)
        if deliveries:
            items = [adoption_of(delivery) for delivery in deliveries]
            taken = await state.insist("store", lambda: state.store.adopt(items))
            await state.bus.ack([delivery for delivery, ok in zip(deliveries, taken, strict=True) if ok])

    def _blocked(self, group: Group, free: int) -> bool:
        sub = self._state.subscriptions[group]
        return not free and not sub.paused and sub.busy >= sub.limit
