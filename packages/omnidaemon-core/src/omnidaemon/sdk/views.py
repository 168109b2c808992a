"""What can be seen from any process: agents, topics, tasks, health and metrics (T1, T2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from omnidaemon.model import histogram, jsontext
from omnidaemon.model.errors import DecodeError, InvalidEvent
from omnidaemon.model.names import check_topic
from omnidaemon.model.run import Start, TaskState
from omnidaemon.ports.event_bus import GroupInfo
from omnidaemon.ports.store import Put, Query
from omnidaemon.runtime.flags import paused_agents
from omnidaemon.sdk.arguments import Listing, checked_limit, timestamp
from omnidaemon.sdk.base import CONFIG, agent_dict, record_dict
from omnidaemon.sdk.health import Health, agents_by_topic, figure_of

__all__ = ["Views"]


class Views(Health):
    """The looking part of :class:`OmniDaemonSDK`."""

    async def list_agents(self) -> dict[str, list[dict[str, Any]]]:
        """Return the registered agents by topic."""
        paused = await paused_agents((await self.connections.get()).store)
        return agents_by_topic(await self.agent_rows(), paused)

    async def get_agent(self, topic: str, agent_name: str) -> dict[str, Any] | None:
        """Return one agent, None if it is not registered."""
        paused = await paused_agents((await self.connections.get()).store)
        for row in await self.agent_rows(topic):
            if row.agent == agent_name:
                return agent_dict(row, paused)
        return None

    async def get_result(self, task_id: str) -> dict[str, Any] | None:
        """Return the record of a finished task with its message, None while there is no outcome."""
        record = await self.find_one(task_id)
        return None if record is None or not record.state.final else record_dict(record)

    async def list_results(self, limit: int = 100, *, tenant: str | None = None, cursor: str | None = None) -> Listing:
        """Return finished tasks, newest first, as ``{task_id, result, saved_at}``.

        The list's ``cursor``, unless it is None, gives the next page.
        """
        states = [state for state in TaskState if state.final]
        page = await self.record_page(Query(states=states, tenant=tenant), cursor, limit)
        found = Listing(
            {"task_id": record.event_id, "result": record_dict(record), "saved_at": record.updated}
            for record in page.items
        )
        found.cursor = page.cursor
        return found

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
        query = Query(topic=topic, agent=agent, states=wanted, tenant=tenant, since=timestamp(since))
        page = await self.record_page(query, cursor, limit)
        return {"tasks": [record_dict(record) for record in page.items], "cursor": page.cursor}

    async def list_topics(self) -> list[dict[str, Any]]:
        """Return the topics with the number of events they retain."""
        bus = (await self.connections.get()).bus
        return [{"topic": name, "length": figure_of((await bus.info(name)).length)} for name in await bus.topics()]

    async def inspect_topic(self, topic: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return the newest events of a topic, newest first, as ``{id, data}``; ``id`` is the position."""
        most, bus = checked_limit(limit), (await self.connections.get()).bus
        last: list[dict[str, Any]] = []
        async for position, body in bus.history(check_topic(topic, internal=True), Start("beginning"), Start("now")):
            try:
                data = jsontext.load(body)
            except (DecodeError, ValueError):
                data = {"raw": body.decode("utf-8", "replace")}
            last.append({"id": position, "data": data})
            if len(last) > 2 * most:
                del last[:most]
        return last[::-1][:most]

    async def topic_stats(self, topic: str) -> dict[str, Any]:
        """Return length, bytes and groups of a topic, each figure exact or marked as it is."""
        pair = await self.connections.get()
        info = await pair.bus.info(check_topic(topic, internal=True))
        groups = [await self._group(group) for group in info.groups]
        return {
            "topic": topic,
            "length": figure_of(info.length),
            "bytes": figure_of(info.bytes),
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
            "lag": figure_of(group.lag),
            "pending": figure_of(group.pending),
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
        for row in await store.metrics(topic, agent, timestamp(since), timestamp(until)):
            shown.setdefault(row.topic, {})[row.agent] = _metrics(row.counts)
        return shown

    async def get_metrics(self, topic: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """Return counts: the 0.1 name of :meth:`metrics`."""
        return await self.metrics(topic, limit=limit)

    async def save_config(self, key: str, value: Any) -> None:
        """Keep a small JSON value of the user's."""
        await (await self.connections.get()).store.put(CONFIG, [Put(key, jsontext.dump(value, f"config {key!r}"))])

    async def get_config(self, key: str, default: Any = None) -> Any:
        """Return a kept value."""
        found = (await (await self.connections.get()).store.get(CONFIG, [key]))[0]
        return default if found is None else jsontext.load(found.value)


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
