"""Control flags and heartbeats: what any process may say to all workers, and what they say of themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any

from omnidaemon.model import jsontext
from omnidaemon.model.errors import BackendError, Closed, InvalidContent
from omnidaemon.ports.store import Put
from omnidaemon.runtime.flags import FLAGS, SEEN, VERSION, WORKERS, pause_key, paused_agents, seen_key
from omnidaemon.runtime.job import Subscription
from omnidaemon.runtime.state import WorkerState

__all__ = ["Control"]

_logger = logging.getLogger("omnidaemon.worker")
INTERVAL = 0.5
HEARTBEAT = 5.0
NOTE_SEEN = 60.0


class Control:
    """One loop: looks at the version of the flags twice a second, at the flags when it changes (C1)."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._seen: int | None = -1
        self._beat_at = self._noted_at = float("-inf")
        self._started = state.clock.time()
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Poll until the worker closes."""
        state = self._state
        while not state.closing:
            try:
                await self.look()
                await self._heartbeat()
                state.recovered("store")
            except Closed:
                return
            except BackendError as error:
                state.failed("store", error)
            await state.clock.wait(state.wake_control, INTERVAL)
            state.wake_control.clear()

    async def look(self, *, anew: bool = False) -> None:
        """Read the flags if a command has been given since the last look, or in any case."""
        async with self._looking:
            if anew:
                self._seen = -1
            known = self._state.may_start
            await self._look()
            if not known:
                self._state.wake_intake.set()
                self._state.wake_due.set()

    async def _look(self) -> None:
        state, sent = self._state, self._state.clock.monotonic()
        found = (await state.store.get(FLAGS, [VERSION]))[0]
        version = None if found is None else found.version
        if version == self._seen:
            state.flags_at = sent
            return
        paused = await paused_agents(state.store)
        rows = {(row.topic, row.agent): row for row in await state.store.agents()}
        for group, sub in state.subscriptions.items():
            was, sub.paused = sub.paused, pause_key(group.topic, group.agent) in paused
            row = rows.get((group.topic, group.agent))
            # A worker never registers a deleted agent again by itself (M8).
            gone = row is None or row.deleted or row.epoch != group.epoch
            if gone and not sub.gone:
                _logger.warning("agent %s on %s was deleted; this worker stops serving it", group.agent, group.topic)
            sub.gone = gone
            # An agent that begins counts as paused until its flags are read: that it is not is no news.
            news, sub.flags_read = (was != sub.paused if sub.flags_read else sub.paused), True
            if news:
                _logger.info("agent %s on %s is %s", group.agent, group.topic, "paused" if sub.paused else "resumed")
            if sub.paused or sub.gone:
                self._give_back_unstarted(sub)
        self._seen, state.flags_at = version, sent
        # A cancelled run learns of it by its next renewal: renew now.
        state.wake_leases.set()
        state.wake_intake.set()
        state.wake_due.set()

    def _give_back_unstarted(self, sub: Subscription) -> None:
        state = self._state
        if state.to_agents is not None:
            state.to_agents.put(*((job, "unstarted") for job in state.jobs.values() if job.subscription is sub))

    async def _heartbeat(self) -> None:
        state, now = self._state, self._state.clock.monotonic()
        if now - self._beat_at < HEARTBEAT:
            return
        await state.store.put(WORKERS, [Put(state.name, jsontext.dump(self.describe()), ttl=3 * HEARTBEAT)])
        self._beat_at = now
        if now - self._noted_at >= NOTE_SEEN:
            keep = state.settings.orphan_after
            keys = [seen_key(group.topic, group.agent) for group, sub in state.subscriptions.items() if not sub.gone]
            await state.store.put(SEEN, [Put(key, b"1", ttl=keep) for key in keys])
            self._noted_at = now

    def describe(self) -> dict[str, Any]:
        """Return what this worker says of itself (T1)."""
        state = self._state
        return {
            "worker": state.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "at": state.clock.time(),
            "stopping": state.stopping,
            "running": len(state.jobs),
            "trouble": _storable(state.trouble),
            "unreadable": state.unreadable,
            "agents": [
                {"topic": sub.group.topic, "agent": sub.group.agent, "last_read": sub.last_read, "busy": sub.busy}
                for sub in state.subscriptions.values()
                if not sub.gone
            ][:1000],
        }


def _storable(trouble: dict[str, str]) -> dict[str, str]:
    try:
        jsontext.dump(trouble)
    except InvalidContent:
        return dict.fromkeys(trouble, "not reachable")
    return trouble
