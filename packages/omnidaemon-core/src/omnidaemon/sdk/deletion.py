"""What removes things: agents, topics, results, counts (design C3, S5)."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from omnidaemon.model.names import check_topic
from omnidaemon.ports.store import Put, Query
from omnidaemon.runtime.flags import bump, pause_key
from omnidaemon.sdk.base import CONFIG, Base

__all__ = ["Deleting", "Deletion"]


@dataclass(frozen=True, slots=True)
class Deletion:
    """What went with a deleted agent or topic; true if there was anything."""

    agents: int = 0
    groups: int = 0
    inbox: int = 0
    outbox: int = 0
    dead_letters: int = 0
    events: int = 0

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __add__(self, other: Deletion) -> Deletion:
        return Deletion(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


class Deleting(Base):
    """The removing part of :class:`OmniDaemonSDK`."""

    async def delete_agent(
        self, topic: str, agent_name: str, delete_group: bool = False, delete_dlq: bool = False
    ) -> Deletion:
        """Delete an agent, for running workers too (C3).

        Args:
            topic: Its topic.
            agent_name: Its name.
            delete_group: Also its group: position, waiting work and unsent follow-ups.
            delete_dlq: Also its dead letters.

        Returns:
            What went; false if nothing did.
        """
        pair = await self.connections.get()
        row = await self.agent_row(topic, agent_name, deleted=True)
        if row is None or (row.deleted and not (delete_group or delete_dlq)):
            return Deletion()
        groups = 0
        if delete_group:
            groups = sum(group.group == row.group for group in (await pair.bus.info(topic)).groups)
        gone = await pair.store.retire(topic, agent_name, group=delete_group, dead_letters=delete_dlq)
        await bump(pair.store, Put(pause_key(topic, agent_name), None))
        if groups:
            await pair.bus.delete(row.group)
        return Deletion(int(gone.existed), groups, gone.inbox, gone.outbox, gone.dead_letters)

    async def delete_topic(self, topic: str) -> Deletion:
        """Delete a topic with its events, agents, groups and dead letters."""
        pair = await self.connections.get()
        gone = Deletion()
        # Agents that were deleted before may have left groups and dead letters.
        for row in await self.agent_rows(check_topic(topic), deleted=True):
            gone += await self.delete_agent(topic, row.agent, delete_group=True, delete_dlq=True)
        return gone + Deletion(events=await pair.bus.delete(topic))

    async def delete_result(self, task_id: str) -> bool:
        """Remove a finished task's record; its event is still remembered as done (S5)."""
        record = await self.find_one(task_id)
        if record is None:
            return False
        group = record.group
        query = Query(topic=group.topic, agent=group.agent, event_ids=[record.event_id])
        return bool(await (await self.connections.get()).store.remove(query))

    async def clear_agents(self) -> int:
        """Forget the agents that no live worker serves, their groups excepted; stops nobody (S5)."""
        served = await self.served()
        rows = [row for row in await self.agent_rows() if (row.topic, row.agent) not in served]
        return sum([bool(await self.delete_agent(row.topic, row.agent)) for row in rows])

    async def clear_results(self, *, tenant: str | None = None) -> int:
        """Remove the records of finished tasks, dead letters excepted; stops nobody (S5)."""
        return await (await self.connections.get()).store.remove(Query(dead=False, tenant=tenant))

    async def clear_metrics(self) -> int:
        """Forget all counts."""
        return await (await self.connections.get()).store.clear_metrics()

    async def clear_config(self) -> int:
        """Forget the values of ``save_config``."""
        store, cleared = (await self.connections.get()).store, 0
        while items := (await store.scan(CONFIG)).items:
            cleared += len(items)
            await store.put(CONFIG, [Put(item.key, None) for item in items])
        return cleared

    async def clear_all(self) -> dict[str, int]:
        """Do all four and say how much went: ``{agents, results, metrics, config}``; dead letters stay."""
        return {
            "agents": await self.clear_agents(),
            "results": await self.clear_results(),
            "metrics": await self.clear_metrics(),
            "config": await self.clear_config(),
        }
