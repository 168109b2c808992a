"""Commands to running workers, from any process: pause, delete, replay (design §5 C, Q, H)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from omnidaemon.model import jsontext
from omnidaemon.model.envelope import decode
from omnidaemon.model.errors import DecodeError, InvalidEvent, TaskNotFound
from omnidaemon.model.names import check_agent, check_topic
from omnidaemon.model.run import Ask, GrantKind, Outcome, OutcomeKind, Record, Start, TaskState
from omnidaemon.ports.store import AgentRow, Decision, Put, Query
from omnidaemon.runtime.flags import bump, pause_key
from omnidaemon.sdk.arguments import Listing, timestamp
from omnidaemon.sdk.base import record_dict
from omnidaemon.sdk.deletion import Deleting

__all__ = ["Commands", "Replayed"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far a history replay came: pass ``job`` again to resume it behind ``position``."""

    job: str
    replayed: int
    busy: int
    position: str


class Commands(Deleting):
    """The commanding part of :class:`OmniDaemonSDK`."""

    async def pause_agent(self, topic: str, agent_name: str) -> bool:
        """Stop an agent's intake on all workers within 2 s; running work finishes (C1).

        The position is kept for any time and a restart does not end it. False for an unknown agent.
        """
        return await self._flag(topic, agent_name, paused=True)

    async def resume_agent(self, topic: str, agent_name: str) -> bool:
        """End a pause. False for an unknown agent."""
        return await self._flag(topic, agent_name, paused=False)

    async def unsubscribe_agent(self, topic: str, agent_name: str) -> bool:
        """Pause: the 0.1 name of :meth:`pause_agent`."""
        return await self.pause_agent(topic, agent_name)

    async def _flag(self, topic: str, agent: str, *, paused: bool) -> bool:
        if not any(row.agent == agent for row in await self.agent_rows(check_topic(topic))):
            return False
        store = (await self.connections.get()).store
        await bump(store, Put(pause_key(topic, check_agent(agent)), b"1" if paused else None))
        return True

    async def dead_letters(
        self,
        topic: str | None = None,
        agent: str | None = None,
        *,
        tenant: str | None = None,
        since: datetime | float | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Listing:
        """Return dead letters, newest first, each with its event, reason and every attempt (Q1).

        The list's ``cursor``, unless it is None, gives the next page.
        """
        query = Query(topic=topic, agent=agent, dead=True, tenant=tenant, since=timestamp(since))
        page = await self.record_page(query, cursor, limit)
        found = Listing(record_dict(record) for record in page.items)
        found.cursor = page.cursor
        return found

    async def inspect_dlq(self, topic: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return a topic's dead letters: the 0.1 name of :meth:`dead_letters`."""
        return await self.dead_letters(topic, limit=limit)

    async def replay_dead_letters(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        topic: str | None = None,
        agent: str | None = None,
        reason: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Run dead letters again, for their own agent only, with fresh attempts and kept history (Q2).

        Returns:
            How many were opened again; one that is replayed by somebody else at the same time
            counts once.

        Raises:
            TaskNotFound: One of ``ids`` is no dead letter.
            InvalidEvent: Neither ids nor a filter was given.
        """
        store = (await self.connections.get()).store
        replayed, rows = 0, {(row.topic, row.agent): row for row in await self.agent_rows(deleted=True)}
        async for record in self._chosen_dead(ids, topic, agent, reason, tenant):
            row = rows.get((record.group.topic, record.group.agent))
            if row is None or row.deleted:
                raise TaskNotFound(
                    f"agent {record.group.agent} on {record.group.topic} was deleted; register it before replaying"
                )
            # The operation's id names what it replays, so that two replays of one dead letter run it once.
            op = f"replay:{record.generation}:{record.updated!r}"
            if await store.decide(Decision("replay", row.group, record.event_id, op)) == "done":
                replayed += 1
        await bump(store)
        return replayed

    async def purge_dead_letters(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        topic: str | None = None,
        agent: str | None = None,
        reason: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Remove dead letters for good and return how many."""
        store, removed = (await self.connections.get()).store, 0
        found = [record async for record in self._chosen_dead(ids, topic, agent, reason, tenant)]
        for record in found:
            group = record.group
            removed += await store.remove(
                Query(topic=group.topic, agent=group.agent, event_ids=[record.event_id], dead=True)
            )
        return removed

    async def _chosen_dead(
        self,
        ids: Iterable[str] | str | None,
        topic: str | None,
        agent: str | None,
        reason: str | None,
        tenant: str | None,
    ) -> AsyncIterator[Record]:
        if ids is None and (topic, agent, reason, tenant) == (None, None, None, None):
            raise InvalidEvent("name what is meant: ids, or topic=, agent=, reason= or tenant=")
        if ids is not None:
            for name in [ids] if isinstance(ids, str) else ids:
                record = await self.find_one(name)
                if record is None or record.dead is None:
                    raise TaskNotFound(f"{name} is no dead letter")
                yield record
            return
        store, cursor = (await self.connections.get()).store, None
        found: list[Record] = []
        while True:
            page = await store.records(Query(topic=topic, agent=agent, dead=True, tenant=tenant), cursor, _PAGE)
            found.extend(page.items)
            cursor = page.cursor
            if cursor is None:
                break
        for record in found:
            if reason is None or record.dead == reason:
                yield record

    async def replay(
        self,
        topic: str,
        agent: str,
        start: str | datetime = "beginning",
        end: str | datetime = "now",
        rate: float | None = None,
        job: str | None = None,
    ) -> Replayed:
        """Put a stretch of the topic's history into one agent's inbox, as the next generation (H2).

        The group's position does not move and other agents see nothing of it. Cancelling the call
        stops it; the same ``job`` resumes it.

        Args:
            topic: The topic.
            agent: The agent.
            start: ``beginning``, a datetime or a position.
            end: ``now``, a datetime or a position.
            rate: At most so many events a second.
            job: The job of an earlier call, to go on behind its position.
        """
        pair = await self.connections.get()
        row = await self.agent_row(check_topic(topic), agent)
        if row is None:
            raise TaskNotFound(f"agent {agent} is not registered on {topic}")
        if rate is not None and not rate > 0:
            raise InvalidEvent(f"rate={rate} must be more than 0 events a second")
        job = job or secrets.token_hex(6)
        kept = (await pair.store.get("replays", [job]))[0]
        done: dict[str, Any] = {"position": "", "replayed": 0, "busy": 0}
        if kept is not None:
            done = jsontext.load(kept.value)
        first = Start.of(done["position"]) if done["position"] else Start.of(start)
        try:
            async for position, body in pair.bus.history(topic, first, Start.of(end)):
                if position == done["position"]:
                    continue
                answer = await self._rerun(row, job, position, body)
                done["replayed"] += answer == "done"
                done["busy"] += answer == "busy"
                done["position"] = position
                if (done["replayed"] + done["busy"]) % 100 == 0:
                    await pair.store.put("replays", [Put(job, jsontext.dump(done), ttl=self.settings.retention)])
                if rate is not None:
                    await asyncio.sleep(1 / rate)
        finally:
            await pair.store.put("replays", [Put(job, jsontext.dump(done), ttl=self.settings.retention)])
        return Replayed(job, done["replayed"], done["busy"], done["position"])

    async def _rerun(self, row: AgentRow, job: str, position: str, body: bytes) -> str:
        store = (await self.connections.get()).store
        try:
            event = decode(body)
        except DecodeError:
            return "undecodable"
        decision = Decision(
            "rerun", row.group, event.id, f"{job}:{position}", body=body, lane=event.lane, tenant=event.tenant_id
        )
        return await store.decide(decision)

    async def skip(self, topic: str, agent: str, end: str | datetime = "now") -> int:
        """Skip an agent forward: what it has not met up to ``end`` becomes ``rejected`` (H3).

        Returns:
            How many events were skipped.
        """
        pair = await self.connections.get()
        row = await self.agent_row(check_topic(topic), agent)
        if row is None:
            raise TaskNotFound(f"agent {agent} is not registered on {topic}")
        info = next((group for group in (await pair.bus.info(topic)).groups if group.group == row.group), None)
        first = Start.of(info.position) if info is not None and info.position else Start.of("beginning")
        skipped = 0
        async for _, body in pair.bus.history(topic, first, Start.of(end)):
            try:
                event = decode(body)
            except DecodeError:
                continue
            token = secrets.token_hex(12)
            grant = (await pair.store.claim("skip", [Ask(row.group, event.id, token, 30.0, takeover=False)]))[0]
            if grant.kind is GrantKind.GRANTED:
                outcome = Outcome(row.group, event.id, token, OutcomeKind.FINAL, TaskState.REJECTED)
                outcome.data, outcome.body, outcome.tenant = b'{"rejected":"skipped"}', body, event.tenant_id
                outcome.ttl, outcome.mark_ttl = self.settings.result_ttl, self.settings.retention
                outcome.counts = [("received", 1), ("rejected", 1)]
                skipped += (await pair.store.settle([outcome]))[0]
        return skipped
