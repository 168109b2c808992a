"""Publishes what the outbox holds: follow-ups of settled runs and delayed events (P5, S12, M11)."""

from __future__ import annotations

import logging

from omnidaemon.model.errors import BackendError, Closed
from omnidaemon.model.run import Outgoing, Receipt
from omnidaemon.runtime.state import WorkerState

__all__ = ["Relay"]

_logger = logging.getLogger("omnidaemon.worker")
INTERVAL = 0.5
BATCH = 256
LEASE = 15.0


class Relay:
    """One loop in each worker; a row is leased to one relay at a time."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    async def run(self) -> None:
        """Relay until the worker closes."""
        state, pause = self._state, 0.0
        while not state.closing:
            await state.clock.wait(state.wake_relay, pause)
            state.wake_relay.clear()
            try:
                pause = await self.once()
            except Closed:
                return
            except BackendError as error:
                state.failed("store", error)
                pause = state.rng.uniform(0.2, 1.0)

    async def once(self) -> float:
        """Send this worker's own follow-ups, then whatever is due; return the seconds until the next look."""
        state = self._state
        while state.outgoing:
            own = [state.outgoing.popleft() for _ in range(min(BATCH, len(state.outgoing)))]
            await self._send(own)
        rows, following = await state.store.outbox(state.name, BATCH, LEASE)
        if rows:
            await self._send(rows)
        if len(rows) == BATCH:
            return 0.0
        return INTERVAL if following is None else min(INTERVAL, max(0.01, following))

    async def _send(self, rows: list[Outgoing]) -> None:
        """Publish; what fails stays in the outbox until its lease there has passed."""
        state = self._state
        try:
            receipts = await state.bus.publish(rows, state.settings.publish_timeout)
        except Closed:
            raise
        except BackendError as error:
            state.failed("bus", error)
            return
        sent = [row for row, receipt in zip(rows, receipts, strict=True) if isinstance(receipt, Receipt)]
        for row, receipt in zip(rows, receipts, strict=True):
            if not isinstance(receipt, Receipt):
                _logger.warning(
                    "event %s for %s stays in the outbox: %s", row.id, row.topic, receipt, extra={"event_id": row.id}
                )
        if sent:
            await state.insist("store", lambda: state.store.sent(sent))
