"""House-keeping by one worker at a time: trims topics and drops done marks (P7, M6)."""

from __future__ import annotations

import logging

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Group
from omnidaemon.ports.event_bus import GroupInfo
from omnidaemon.ports.store import Put
from omnidaemon.runtime.state import WorkerState

__all__ = ["Janitor"]

_logger = logging.getLogger("omnidaemon.worker")
INTERVAL = 60.0
LEADER = "leader"
# For how long a follow-up whose publish was never confirmed may be sent again, once nothing is in the way:
# a relay that dies has it for its lease (M11), and the next one has to get to it.
UNCONFIRMED = 60.0


class Janitor:
    """One loop; who writes the leader's key first does the round."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    async def run(self) -> None:
        """Clean up every minute until the worker closes."""
        state = self._state
        while not state.closing:
            await state.clock.wait(state.wake_janitor, INTERVAL)
            state.wake_janitor.clear()
            if state.closing:
                return
            try:
                await self.once()
            except Closed:
                return
            except BackendError as error:
                state.failed("store", error)

    async def once(self) -> None:
        """Do one round, unless another worker does it."""
        state = self._state
        # As a write of what expires it also removes what has expired, where no agent is there to forget for.
        put = Put(LEADER, state.name.encode(), ttl=INTERVAL * 0.9, expect=0)
        if not (await state.store.put("janitor", [put]))[0]:
            return
        now = await state.store.now()
        alive = {row.group for row in await state.store.agents() if not row.deleted}
        for topic in await state.bus.topics():
            info = await state.bus.info(topic)
            for described in info.groups:
                if described.group in alive:
                    await self._forget(described, now)
                else:
                    await self._sweep(described.group)
            if state.bus.capabilities.trim:
                removed = await state.bus.trim(topic, now - state.settings.retention)
                if removed:
                    _logger.debug("trimmed %d events of %s", removed, topic, extra={"topic": topic})

    async def _forget(self, info: GroupInfo, now: float) -> None:
        """Drop marks whose window has passed, if nothing can still bring those events (M6)."""
        state, oldest = self._state, info.oldest
        if state.trouble or state.clock.monotonic() - state.calm_since < UNCONFIRMED:
            return  # follow-ups that could not be sent, or not be confirmed, come first
        if oldest is None and (info.lag.value != 0 or info.pending.value != 0):
            return  # the bus cannot tell what it still holds for the group
        window = max(state.settings.dedup_window, UNCONFIRMED) + 2 * state.longest_lease
        before = min(now, now if oldest is None else oldest) - window
        await state.store.forget(info.group, before)

    async def _sweep(self, group: Group) -> None:
        """Remove a bus group whose epoch has ended, which a late worker may have made again (M8)."""
        state = self._state
        rows = {(row.topic, row.agent): row for row in await state.store.agents()}
        row = rows.get((group.topic, group.agent))
        if row is not None and row.epoch > group.epoch:
            await state.bus.delete(group)
