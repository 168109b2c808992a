"""Whether work goes on, seen from any process (T1)."""

from __future__ import annotations

from typing import Any

from omnidaemon.model.errors import BackendError
from omnidaemon.ports.event_bus import EventBus, Figure, TopicInfo
from omnidaemon.ports.store import AgentRow, Store
from omnidaemon.runtime.flags import SEEN, paused_agents, seen_key
from omnidaemon.sdk.base import Base, agent_dict

__all__ = ["Health", "agents_by_topic", "figure_of"]


def figure_of(figure: Figure) -> Any:
    """Return an exact figure as a number, any other with its quality."""
    return figure.value if figure.quality == "exact" else {"value": figure.value, "quality": figure.quality}


class Health(Base):
    """The part of :class:`OmniDaemonSDK` that tells how it is."""

    async def health(self) -> dict[str, Any]:
        """Return what tells whether work goes on, from any process; never raises for a lost backend."""
        chosen = self.choose()
        lost = await self._lost(chosen.bus)
        storage = await self.storage_health()
        shown: dict[str, Any] = {
            "status": "down",
            "runner_id": None,
            "event_bus_type": chosen.bus.capabilities.name,
            "event_bus_connected": lost is None,
            "store_type": chosen.store.capabilities.name,
            "storage_healthy": storage["connected"],
            "storage_status": storage,
            "warnings": [],
            **_life([], [], {}),
        }
        error = lost or storage.get("error")
        if error is None:
            try:
                await self._add_life(shown)
            except BackendError as late:
                error = str(late)
        if error is not None:
            shown |= {"status": "down", "error": error}
        return shown

    async def _lost(self, part: EventBus | Store) -> str | None:
        """Return why a backend does not answer, None if it does."""
        try:
            await self.connections.ping(part)
        except BackendError as error:
            return str(error)
        return None

    async def storage_health(self) -> dict[str, Any]:
        """Return whether the store answers, and how fast."""
        store = self.choose().store
        began = self.clock.monotonic()
        shown: dict[str, Any] = {"backend": store.capabilities.name, "location": store.location}
        error = await self._lost(store)
        if error is not None:
            return {**shown, "status": "unhealthy", "connected": False, "error": error}
        latency = round((self.clock.monotonic() - began) * 1000, 3)
        return {**shown, "status": "healthy", "connected": True, "latency_ms": latency}

    async def _add_life(self, shown: dict[str, Any]) -> None:
        pair, warnings = await self.connections.get(), shown["warnings"]
        workers, rows, serving = await self.workers(), await self.agent_rows(), await self.served()
        now, paused = await pair.store.now(), await paused_agents(pair.store)
        for worker in workers:
            warnings.extend(f"worker {worker['worker']}: {part}: {text}" for part, text in worker["trouble"].items())
            if worker["unreadable"]:
                warnings.append(f"worker {worker['worker']}: {worker['unreadable']} events of a newer schema wait")
        infos = {topic: await pair.bus.info(topic) for topic in sorted({row.topic for row in rows})}
        agents = {
            f"{row.topic}/{row.agent}": await self._agent_life(
                row, infos[row.topic], serving.get((row.topic, row.agent), {})
            )
            for row in rows
        }
        dead = sum(agent["dead_letters"] for agent in agents.values())
        if dead >= self.settings.max_dead_letters > 0:
            warnings.append(f"{dead} dead letters are kept; look with `omnidaemon dlq list`, then replay or purge them")
        old = [row for row in rows if now - row.registered_at > self.settings.orphan_after]
        seen = await pair.store.get(SEEN, [seen_key(row.topic, row.agent) for row in old])
        for row, lately in zip(old, seen, strict=True):
            if lately is None and (row.topic, row.agent) not in serving:
                warnings.append(
                    f"agent {row.agent} on {row.topic} has no worker and holds back its events; if it will not return:"
                    f" omnidaemon agent delete {row.topic} {row.agent} --cleanup"
                )
        shown |= _life(workers, rows, serving)
        alive = shown["is_running"]
        shown |= {
            "status": "degraded" if warnings else "running" if alive else "stopped" if rows else "ready",
            "agents": agents_by_topic(rows, paused),
            "agent_health": agents,
        }
        if alive:
            oldest = min(shown["workers"], key=lambda worker: worker["started"])
            shown |= {"runner_id": oldest["worker"], "uptime_seconds": max(0.0, now - oldest["started"])}

    async def _agent_life(self, row: AgentRow, info: TopicInfo, seen: dict[str, Any]) -> dict[str, Any]:
        counts = await (await self.connections.get()).store.count(row.group)
        group = next((group for group in info.groups if group.group == row.group), None)
        return {
            "healthy": bool(seen),
            "last_heartbeat": seen.get("at"),
            "last_poll": seen.get("last_read") or None,
            "lag": None if group is None else figure_of(group.lag),
            "pending": None if group is None else figure_of(group.pending),
            "oldest_pending": None if group is None else group.oldest,
            **counts,
        }


def agents_by_topic(rows: list[AgentRow], paused: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return agents as users see them, by topic."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        shown.setdefault(row.topic, []).append(agent_dict(row, paused))
    return shown


def _life(workers: list[dict[str, Any]], rows: list[AgentRow], serving: dict[tuple[str, str], Any]) -> dict[str, Any]:
    alive = any(not worker["stopping"] for worker in workers)
    healthy = sum((row.topic, row.agent) in serving for row in rows)
    return {
        "is_running": alive,
        "runner_running": alive,
        "has_active_consumers": bool(serving),
        "active_consumers": len(serving),
        "subscribed_topics": sorted({row.topic for row in rows}),
        "registered_agents_count": len(rows),
        "healthy_agents_count": healthy,
        "unhealthy_agents_count": len(rows) - healthy,
        "agents": {},
        "agent_health": {},
        "workers": workers,
        "uptime_seconds": 0.0,
    }
