"""What can be seen from any process: agents, topics, tasks, health and metrics (T1, T2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from omnidaemon.model import histogram, jsontext
from omnidaemon.model.errors import BackendError, DecodeError, InvalidEvent
from omnidaemon.model.names import check_topic
from omnidaemon.model.run import Start, TaskState
from omnidaemon.ports.event_bus import Figure, GroupInfo
from omnidaemon.ports.store import AgentRow, Put, Query
from omnidaemon.runtime.control import WORKERS, pause_key, paused_agents
from omnidaemon.sdk.base import Base, record_dict
from omnidaemon.sdk.commands import _limit, _seconds

__all__ = ["Views"]


def _figure(figure: Figure) -> Any:
    return figure.value if figure.quality == "exact" else {"value": figure.value, "quality": figure.quality}


class Views(Base):
    """The looking part of :class:`OmniDaemonSDK`."""

    async def list_agents(self) -> dict[str, list[dict[str, Any]]]:
        """Return the registered agents by topic."""
        paused = await paused_agents((await self.connections.get()).store)
        shown: dict[str, list[dict[str, Any]]] = {}
        for row in await self.agent_rows():
            shown.setdefault(row.topic, []).append(self._agent(row, paused))
        return shown

    async def get_agent(self, topic: str, agent_name: str) -> dict[str, Any] | None:
        """Return one agent, None if it is not registered."""
        paused = await paused_agents((await self.connections.get()).store)
        for row in await self.agent_rows(topic):
            if row.agent == agent_name:
                return self._agent(row, paused)
        return None

    @staticmethod
    def _agent(row: AgentRow, paused: set[str]) -> dict[str, Any]:
        state = "paused" if pause_key(row.topic, row.agent) in paused else "active"
        known: dict[str, Any] = jsontext.load(row.data) if row.data else {}
        return {
            **known,
            "name": row.agent,
            "topic": row.topic,
            "state": state,
            "epoch": row.epoch,
            "registered_at": row.registered_at,
        }

    async def get_result(self, task_id: str) -> dict[str, Any] | None:
        """Return the record of a finished task with its message, None while there is no outcome."""
        record = await self.find_one(task_id)
        return None if record is None or not record.state.final else record_dict(record)

    async def list_results(self, limit: int = 100, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return finished tasks, newest first, as ``{task_id, result, saved_at}``."""
        states = [state for state in TaskState if state.final]
        page = await (await self.connections.get()).store.records(
            Query(states=states, tenant=tenant), None, _limit(limit)
        )
        return [
            {"task_id": record.event_id, "result": record_dict(record), "saved_at": record.updated}
            for record in page.items
        ]

    async def delete_result(self, task_id: str) -> bool:
        """Remove a finished task's record; its event is still remembered as done (S5)."""
        record = await self.find_one(task_id)
        if record is None:
            return False
        group = record.group
        query = Query(topic=group.topic, agent=group.agent, event_ids=[record.event_id])
        return bool(await (await self.connections.get()).store.remove(query))

    async def list_tasks(
        self,
        agent: str | None = None,
        state: TaskState | str | Sequence[TaskState | str] | None = None,
        tenant: str | None = None,
        since: datetime | float | None = None,
        cursor: str | None = None,
        limit: int = 100,
        topic: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of tasks in any state, newest change first: ``{tasks, cursor}``."""
        states = [state] if isinstance(state, str) else state
        try:
            wanted = None if states is None else [TaskState(value) for value in states]
        except ValueError as error:
            raise InvalidEvent(f"{error}; states are {', '.join(TaskState)}") from None
        query = Query(topic=topic, agent=agent, states=wanted, tenant=tenant, since=_seconds(since))
        page = await (await self.connections.get()).store.records(query, cursor, _limit(limit))
        return {"tasks": [record_dict(record) for record in page.items], "cursor": page.cursor}

    async def list_topics(self) -> list[dict[str, Any]]:
        """Return the topics with the number of events they retain."""
        bus = (await self.connections.get()).bus
        return [{"topic": name, "length": _figure((await bus.info(name)).length)} for name in await bus.topics()]

    async def inspect_topic(self, topic: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return the newest events of a topic, newest first, as ``{id, data}``; ``id`` is the position."""
        bus = (await self.connections.get()).bus
        last: list[dict[str, Any]] = []
        async for position, body in bus.history(check_topic(topic, internal=True), Start("beginning"), Start("now")):
            try:
                data = jsontext.load(body)
            except (DecodeError, ValueError):
                data = {"raw": body.decode("utf-8", "replace")}
            last.append({"id": position, "data": data})
            if len(last) > 2 * _limit(limit):
                del last[:limit]
        return last[::-1][:limit]

    async def topic_stats(self, topic: str) -> dict[str, Any]:
        """Return length, bytes and groups of a topic, each figure exact or marked as it is."""
        pair = await self.connections.get()
        info = await pair.bus.info(check_topic(topic, internal=True))
        groups = [await self._group(group) for group in info.groups]
        return {
            "topic": topic,
            "length": _figure(info.length),
            "bytes": _figure(info.bytes),
            "first": info.first,
            "last": info.last,
            "dlq_total": sum(group["dead_letters"] for group in groups),
            "groups": groups,
        }

    async def _group(self, group: GroupInfo) -> dict[str, Any]:
        counts = await (await self.connections.get()).store.count(group.group)
        return {
            "name": group.group.agent,
            "epoch": group.group.epoch,
            "lag": _figure(group.lag),
            "pending": _figure(group.pending),
            "oldest": group.oldest,
            "last_delivered_id": group.position,
            "consumers": list(group.readers),
            **counts,
        }

    async def list_streams(self) -> list[dict[str, Any]]:
        """Return ``[{stream, length}]``: the 0.1 name of :meth:`list_topics`."""
        return [{"stream": entry["topic"], "length": entry["length"]} for entry in await self.list_topics()]

    async def inspect_stream(self, stream: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return a topic's newest events: the 0.1 name of :meth:`inspect_topic`."""
        return await self.inspect_topic(stream, limit)

    async def list_groups(self, stream: str) -> list[dict[str, Any]]:
        """Return the groups of a topic."""
        groups: list[dict[str, Any]] = (await self.topic_stats(stream))["groups"]
        return groups

    async def get_bus_stats(self) -> dict[str, Any]:
        """Return all topics' figures as ``{snapshot: {timestamp, topics}}``."""
        bus = (await self.connections.get()).bus
        topics = {name: await self.topic_stats(name) for name in await bus.topics()}
        return {"snapshot": {"timestamp": self.clock.time(), "topics": topics}}

    async def metrics(
        self,
        topic: str | None = None,
        agent: str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        limit: int | None = None,  # noqa: ARG002
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Return exact counts and latency percentiles as ``{topic: {agent: {...}}}`` (T2).

        Args:
            topic: Only this topic.
            agent: Only this agent.
            since: From this time on, by whole minutes; without times, since ever.
            until: Up to this time.
            limit: Accepted for the sake of 0.1 and without effect: counts are sums, not entries.
        """
        store = (await self.connections.get()).store
        shown: dict[str, dict[str, dict[str, Any]]] = {}
        for row in await store.metrics(topic, agent, _seconds(since), _seconds(until)):
            shown.setdefault(row.topic, {})[row.agent] = _metrics(row.counts)
        return shown

    async def get_metrics(self, topic: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """Return counts: the 0.1 name of :meth:`metrics`."""
        return await self.metrics(topic, limit=limit)

    async def health(self) -> dict[str, Any]:
        """Return what tells whether work goes on, from any process (T1); never raises for a lost backend."""
        chosen = self.choose()
        shown: dict[str, Any] = {
            "event_bus_type": chosen.bus.capabilities.name,
            "event_bus_connected": False,
            "store_type": chosen.store.capabilities.name,
            "storage_healthy": False,
            "warnings": [],
        }
        try:
            pair = await self.connections.get()
            await pair.bus.ping()
            shown["event_bus_connected"] = True
            storage = await self.storage_health()
            shown |= {"storage_healthy": storage["status"] == "healthy", "storage_status": storage}
            if not shown["storage_healthy"]:
                raise BackendError(storage["error"])
            await self._add_life(shown)
        except BackendError as error:
            shown |= {"status": "down", "is_running": False, "error": str(error)}
        return shown

    async def _add_life(self, shown: dict[str, Any]) -> None:
        pair, warnings = await self.connections.get(), shown["warnings"]
        workers = [jsontext.load(item.value) for item in (await pair.store.scan(WORKERS)).items]
        rows = await self.agent_rows()
        now = await pair.store.now()
        serving: dict[tuple[str, str], float] = {}
        for worker in workers:
            for agent in worker["agents"]:
                key = (agent["topic"], agent["agent"])
                serving[key] = max(serving.get(key, 0.0), worker["at"])
            warnings.extend(f"worker {worker['worker']}: {part}: {text}" for part, text in worker["trouble"].items())
            if worker["unreadable"]:
                warnings.append(f"worker {worker['worker']}: {worker['unreadable']} events of a newer schema wait")
        agents = {
            f"{row.topic}/{row.agent}": await self._life(row, serving.get((row.topic, row.agent))) for row in rows
        }
        dead = sum(agent["dead_letters"] for agent in agents.values())
        if dead >= self.settings.max_dead_letters > 0:
            warnings.append(f"{dead} dead letters are kept; look with `omnidaemon dlq list`, then replay or purge them")
        for row in rows:
            if (row.topic, row.agent) not in serving and now - row.registered_at > self.settings.orphan_after:
                warnings.append(
                    f"agent {row.agent} on {row.topic} has no worker and holds back its events; if it will not return:"
                    f" omnidaemon agent delete {row.topic} {row.agent} --cleanup"
                )
        alive = [worker for worker in workers if not worker["stopping"]]
        status = "degraded" if warnings else "running" if alive else "stopped" if rows else "ready"
        started = min((worker["started"] for worker in alive), default=now)
        healthy = sum((row.topic, row.agent) in serving for row in rows)
        shown |= {
            "status": status,
            "is_running": bool(alive),
            "runner_running": bool(alive),
            "has_active_consumers": bool(serving),
            "active_consumers": len(serving),
            "subscribed_topics": sorted({row.topic for row in rows}),
            "registered_agents_count": len(rows),
            "healthy_agents_count": healthy,
            "unhealthy_agents_count": len(rows) - healthy,
            "agents": await self.list_agents(),
            "agent_health": agents,
            "workers": workers,
            "uptime_seconds": max(0.0, now - started),
        }

    async def _life(self, row: AgentRow, seen: float | None) -> dict[str, Any]:
        pair = await self.connections.get()
        counts = await pair.store.count(row.group)
        info = next((group for group in (await pair.bus.info(row.topic)).groups if group.group == row.group), None)
        return {
            "healthy": seen is not None,
            "last_heartbeat": seen,
            "lag": None if info is None else _figure(info.lag),
            "pending": None if info is None else _figure(info.pending),
            "oldest_pending": None if info is None else info.oldest,
            **counts,
        }

    async def storage_health(self) -> dict[str, Any]:
        """Return whether the store answers, and how fast."""
        store = (await self.connections.get()).store
        began = self.clock.monotonic()
        shown: dict[str, Any] = {"backend": store.capabilities.name, "location": store.location}
        try:
            await store.ping()
        except BackendError as error:
            return {**shown, "status": "unhealthy", "connected": False, "error": str(error)}
        latency = round((self.clock.monotonic() - began) * 1000, 3)
        return {**shown, "status": "healthy", "connected": True, "latency_ms": latency}

    async def save_config(self, key: str, value: Any) -> None:
        """Keep a small JSON value of the user's."""
        await (await self.connections.get()).store.put("config", [Put(key, jsontext.dump(value, f"config {key!r}"))])

    async def get_config(self, key: str, default: Any = None) -> Any:
        """Return a kept value."""
        found = (await (await self.connections.get()).store.get("config", [key]))[0]
        return default if found is None else jsontext.load(found.value)

    async def clear_results(self, *, tenant: str | None = None) -> int:
        """Remove the records of finished tasks, dead letters excepted; stops nobody (S5)."""
        return await (await self.connections.get()).store.remove(Query(dead=False, tenant=tenant))

    async def clear_metrics(self) -> int:
        """Forget all counts."""
        return await (await self.connections.get()).store.clear_metrics()


def _metrics(counts: dict[str, float]) -> dict[str, Any]:
    buckets = {int(name[2:]): int(number) for name, number in counts.items() if name.startswith("b:")}
    processed = int(counts.get("processed", 0))
    seconds, runs = counts.get("seconds", 0.0), sum(buckets.values())
    shown: dict[str, Any] = {
        "tasks_received": int(counts.get("received", 0)),
        "tasks_processed": processed,
        "tasks_failed": int(counts.get("failed", 0)),
        "total_processing_time": round(seconds, 6),
        "avg_processing_time_sec": round(seconds / runs, 6) if runs else 0.0,
        "latency_sec": {f"p{int(q * 100)}": histogram.percentile(buckets, q) for q in (0.5, 0.95, 0.99)},
        "errors": {name[6:]: int(number) for name, number in counts.items() if name.startswith("error:")},
        "usage": {name[6:]: number for name, number in counts.items() if name.startswith("usage:")},
    }
    for name in ("attempts_failed", "retried", "postponed", "dead_lettered", "rejected", "canceled", "asked"):
        shown[name] = int(counts.get(name, 0))
    return shown
