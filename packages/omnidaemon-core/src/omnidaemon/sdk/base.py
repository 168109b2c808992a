"""What the parts of the SDK share: connections, and how tasks and agents are found."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omnidaemon.model import jsontext
from omnidaemon.model.agent import DEFAULT_VERSION
from omnidaemon.model.envelope import EventEnvelope, decode
from omnidaemon.model.errors import AmbiguousTask, DecodeError, InvalidEvent, TaskError, TaskNotFound
from omnidaemon.model.names import split_task_id, task_id
from omnidaemon.model.run import Group, Record, TaskState
from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import AgentRow, Decision, Page, Query, Store
from omnidaemon.runtime.flags import WORKERS, bump, pause_key
from omnidaemon.runtime.record import message_of, read_data
from omnidaemon.sdk.arguments import checked_limit
from omnidaemon.sdk.connections import Connections

if TYPE_CHECKING:
    from omnidaemon import bootstrap
    from omnidaemon.settings import Settings

__all__ = ["CONFIG", "Base", "agent_dict", "record_dict"]

# The namespace of the values that users keep.
CONFIG = "config"


class Base:
    """Chooses backends at first use; everything public is on :class:`OmniDaemonSDK`."""

    def __init__(self, event_bus: EventBus | str | None, store: Store | str | None, given: Mapping[str, Any]) -> None:
        if given:
            from omnidaemon.settings import settings_from

            settings_from({}, given)  # what is wrong in the call is said at the call
        # Deferred at import; built here, before there is a second thread that could do so as well.
        EventEnvelope.model_rebuild()
        self._given = (event_bus, store, dict(given))
        self._chosen: bootstrap.Chosen | None = None
        self.clock: Clock = SystemClock()
        self.connections = Connections(self.choose, self.clock)

    def choose(self) -> bootstrap.Chosen:
        """Return the chosen backends, unopened; resolved once (``ConfigurationError`` if they cannot be)."""
        if self._chosen is None:
            from omnidaemon import bootstrap, plugins

            plugins.check_foreign()
            event_bus, store, given = self._given
            self._chosen = bootstrap.choose(event_bus, store, given)
            for text in self._chosen.warnings:
                bootstrap.logger.warning(text)
        return self._chosen

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.choose().settings

    @property
    def store(self) -> Store:
        """The store port of the running event loop; connected before (``Closed`` otherwise)."""
        return self.connections.here().store

    @property
    def event_bus(self) -> EventBus:
        """The bus port of the running event loop; connected before (``Closed`` otherwise)."""
        return self.connections.here().bus

    async def agent_rows(self, topic: str | None = None, *, deleted: bool = False) -> list[AgentRow]:
        """Return registered agents, of one topic or all."""
        rows = await (await self.connections.get()).store.agents()
        return [row for row in rows if (deleted or not row.deleted) and topic in (None, row.topic)]

    async def agent_row(self, topic: str, agent: str, *, deleted: bool = False) -> AgentRow | None:
        """Return one registered agent."""
        return next((row for row in await self.agent_rows(topic, deleted=deleted) if row.agent == agent), None)

    async def workers(self) -> list[dict[str, Any]]:
        """Return what the live workers say of themselves."""
        store, cursor = (await self.connections.get()).store, None
        found: list[dict[str, Any]] = []
        while True:
            page = await store.scan(WORKERS, cursor)
            found.extend(jsontext.load(item.value) for item in page.items)
            cursor = page.cursor
            if cursor is None:
                return found

    async def served(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return for each agent that a live worker serves when it was last seen and last polled."""
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        for worker in await self.workers():
            for agent in worker["agents"]:
                known = seen.setdefault((agent["topic"], agent["agent"]), {"at": 0.0, "last_read": 0.0})
                known["at"] = max(known["at"], worker["at"])
                known["last_read"] = max(known["last_read"], agent["last_read"])
        return seen

    async def record_page(self, query: Query, cursor: str | None, limit: int) -> Page[Record]:
        """Return a page of records.

        Raises:
            InvalidEvent: ``limit`` or ``cursor`` is none.
        """
        store = (await self.connections.get()).store
        try:
            return await store.records(query, cursor, checked_limit(limit))
        except (ValueError, TypeError) as error:
            if cursor is None or isinstance(error, InvalidEvent):
                raise
            raise InvalidEvent(f"cursor={cursor!r:.80} is none that this store gave: begin without one") from None

    async def agents_on(self, topic: str) -> set[str]:
        """Return the names of the agents on a topic."""
        return {row.agent for row in await self.agent_rows(topic)}

    async def find_records(self, event_id: str, agent: str | None, topic: str | None = None) -> list[Record]:
        """Return the records of an event, of one agent or all."""
        store = (await self.connections.get()).store
        return (await store.records(Query(topic=topic, agent=agent, event_ids=[event_id]), None, 1000)).items

    async def find_one(self, task: str, topic: str | None = None) -> Record | None:
        """Return the record of a task id, or of a bare event id under the one-agent rule.

        Args:
            task: The id.
            topic: Only there, for an event id that was published on several topics.

        Raises:
            AmbiguousTask: Several agents work on the event.
        """
        event_id, agent = split_task_id(task)
        records = await self.find_records(event_id, agent, topic)
        if not records and agent is not None:
            records = await self.find_records(task, None, topic)
        if len(records) > 1:
            names = ", ".join(sorted(task_id(record.event_id, record.group.agent) for record in records))
            raise AmbiguousTask(f"several agents work on event {records[0].event_id}; use one of {names}")
        return records[0] if records else None

    async def get_task(self, task_id: str, *, topic: str | None = None) -> dict[str, Any] | None:
        """Return a task's record in any state, None while no worker has claimed it.

        Raises:
            AmbiguousTask: A bare event id that several agents work on.
        """
        record = await self.find_one(task_id, topic)
        return None if record is None else record_dict(record)

    async def cancel(self, task: str, *, topic: str | None = None) -> bool:
        """Cancel a task wherever it runs or waits, or before anyone has met it (C2).

        Returns:
            True if the cancel came first; False if the task had ended.

        Raises:
            AmbiguousTask: A bare event id and several agents.
            TaskNotFound: No agent of that name is registered.
        """
        store = (await self.connections.get()).store
        record = await self.find_one(task, topic)
        if record is not None:
            group, event_id = record.group, record.event_id
        else:
            group, event_id = await self._unmet(task, topic)
        ttl = max(self.settings.result_ttl, self.settings.retention)
        decision = Decision("cancel", group, event_id, secrets.token_hex(8), ttl=ttl)
        answer = await store.decide(decision)
        await bump(store)
        return answer == "done"

    async def _unmet(self, task: str, topic: str | None) -> tuple[Group, str]:
        event_id, agent = split_task_id(task)
        known = await self.agent_rows(topic)
        rows = [row for row in known if agent in (None, row.agent)]
        if not rows and agent is not None:
            event_id, rows = task, known  # an event id with colons
        if not rows:
            raise TaskNotFound(f"no agent is registered that could run task {task}")
        if len(rows) > 1:
            names = ", ".join(sorted(f"{event_id}:{row.agent} on {row.topic}" for row in rows))
            raise AmbiguousTask(f"nobody has met task {task} yet and several agents could: {names}")
        return rows[0].group, event_id

    async def answer(self, record: Record, question: str, value: Any) -> None:
        """Answer a question; see :meth:`TaskHandle.answer`."""
        store = (await self.connections.get()).store
        name = task_id(record.event_id, record.group.agent)
        data = jsontext.dump(jsontext.plain(value), "the answer")
        decision = Decision(
            "answer", record.group, record.event_id, secrets.token_hex(8), question=question, value=data
        )
        answer = await store.decide(decision)
        if answer != "done":
            waits = f"it waits for {record.question!r}" if record.question else f"it is {record.state.value}"
            raise TaskError(f"task {name} does not wait for the question {question!r}: {waits} ({answer})")
        await bump(store)


def _event(record: Record) -> EventEnvelope | None:
    try:
        return decode(record.body) if record.body else None
    except DecodeError:
        return None


def agent_dict(row: AgentRow, paused: set[str]) -> dict[str, Any]:
    """Return a registered agent as users see it."""
    known: dict[str, Any] = jsontext.load(row.data) if row.data else {}
    return {
        **known,
        "name": row.agent,
        "topic": row.topic,
        "state": "paused" if pause_key(row.topic, row.agent) in paused else "active",
        "epoch": row.epoch,
        "registered_at": row.registered_at,
    }


def record_dict(record: Record) -> dict[str, Any]:
    """Return a record as users see it (``surface.md`` §1.9, with the states of design §1)."""
    event, data, agent = _event(record), read_data(record.data), record.group.agent
    shown: dict[str, Any] = {"task_id": record.event_id, "topic": record.group.topic}
    if event is not None:
        shown = message_of(event, agent)
    shown |= {
        "id": task_id(record.event_id, agent),
        "agent": agent,
        "topic": record.group.topic,
        "tenant_id": record.tenant,
        "status": record.state.value,
        "state": record.state.value,
        "attempt": record.attempt,
        "delivery_attempts": record.attempt,
        "starts": record.starts,
        "generation": record.generation,
        "runner_id": data.get("runner_id"),
        "version": data.get("version", DEFAULT_VERSION),
        "timestamp": record.updated,
        "created": record.created,
        "expires_at": record.expires,
        "took": data.get("took"),
        "history": data.get("history", []),
        "usage": data.get("usage", {}),
    }
    if record.state is TaskState.COMPLETED:
        shown["result"] = None if record.result is None else jsontext.load(record.result)
    for name in ("last_error", "asked", "rejected"):
        if name in data:
            shown[name] = data[name]
    if record.dead is not None or "reason" in data:
        shown["reason"] = record.dead or data["reason"]
    if record.state is TaskState.SUBMITTED and record.due is not None:
        shown["next_attempt_at"] = record.due
    if record.worker is not None:
        shown["worker"] = record.worker
    if event is None and record.body:
        shown["raw"] = record.body.decode("utf-8", "replace")
    return shown
