"""Makes agents known: store row, bus group, and from where the group begins (P2, M8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from omnidaemon.model import jsontext
from omnidaemon.model.agent import AgentConfig
from omnidaemon.model.errors import UnsupportedCapability
from omnidaemon.model.run import Group, Start
from omnidaemon.ports.event_bus import TopicInfo
from omnidaemon.ports.runner import Runner
from omnidaemon.ports.store import AgentRow
from omnidaemon.runtime.job import Subscription
from omnidaemon.runtime.state import WorkerState

__all__ = ["Registration", "description"]

_logger = logging.getLogger("omnidaemon.worker")
# A thousand agents register in as many round trips; so many of them are under way at a time.
AT_A_TIME = 8
S = TypeVar("S")
T = TypeVar("T")


def description(config: AgentConfig) -> bytes:
    """Return what the store keeps of an agent, as JSON."""
    callback = config.callback if config.callback is not None else config.agent
    return jsontext.dump(
        {
            "name": config.name,
            "topic": config.topic,
            "description": config.description,
            "version": config.version,
            "tags": list(config.tags),
            "tools": list(config.tools),
            "callback": getattr(callback, "__qualname__", type(callback).__qualname__),
            "config": config.config.model_dump(mode="json"),
        },
        "the agent's description",
    )


class Registration:
    """Registers agents with the store and the bus, and subscribes the worker to them."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    async def add(self, agents: Sequence[tuple[AgentConfig, Runner]]) -> None:
        """Register agents, to be served from the next look at the flags on.

        One that is served already gets the new runner (L4).

        Raises:
            UnsupportedCapability: An agent asks for what the bus cannot do; none was registered.
            BackendError: Bus or store failed.
        """
        state = self._state
        for config, _ in agents:
            self._check(config)
        enrolled = await _each(agents, lambda item: self._enroll(item[0]))
        topics = {config.topic: None for config, _ in agents}
        infos = dict(zip(topics, await _each(topics, state.bus.info), strict=True))
        groups: dict[str, dict[Group, Start]] = {topic: {} for topic in topics}
        for (config, _), (row, was_deleted) in zip(agents, enrolled, strict=True):
            start = Start.of(config.config.start_from or ("now" if was_deleted else "beginning"))
            groups[config.topic][row.group] = start
            self._warn(config, row.group, start, was_deleted, infos[config.topic])
        await _each(topics, lambda topic: state.bus.ensure(topic, groups[topic]))
        now = {(row.topic, row.agent): row for row in await state.store.agents()}
        for (config, runner), (row, _) in zip(agents, enrolled, strict=True):
            group = await self._current(row, now[config.topic, config.name])
            served = state.subscriptions.get(group)
            if served is None:
                # Paused until the flags have been read: see ``Control.look``.
                state.subscriptions[group] = Subscription(config, runner, group, paused=True)
            else:
                served.config, served.runner = config, runner

    def _check(self, config: AgentConfig) -> None:
        capabilities, start = self._state.bus.capabilities, config.config.start_from
        if start is not None and Start.of(start).kind == "time" and not capabilities.history_by_time:
            raise UnsupportedCapability(
                f"agent {config.name}: start_from a time needs a bus with history by time;"
                f" {capabilities.name!r} has none, redis_stream, kafka and nats do"
            )

    async def _enroll(self, config: AgentConfig) -> tuple[AgentRow, bool]:
        return await self._state.store.enroll(config.topic, config.name, description(config))

    async def _current(self, row: AgentRow, now: AgentRow) -> Group:
        """Return the group of the epoch that holds; remove what was made for one that ended meanwhile (M8)."""
        while now.epoch != row.epoch:
            await self._state.bus.delete(row.group)
            await self._state.bus.ensure(now.topic, {now.group: Start("now")})
            row = now
            now = next(r for r in await self._state.store.agents() if (r.topic, r.agent) == (row.topic, row.agent))
        return row.group

    def _warn(self, config: AgentConfig, group: Group, start: Start, was_deleted: bool, info: TopicInfo) -> None:
        extra = {"agent": config.name, "topic": config.topic}
        if any(known.group == group for known in info.groups):
            return  # it goes on where its group is, also when it was deleted without its group
        if was_deleted and config.config.start_from is None:
            _logger.warning(
                "agent %s on %s was deleted before: it begins with new events only; give start_from= to say otherwise",
                config.name,
                config.topic,
                extra=extra,
            )
        if start.kind == "beginning" and info.length.value:
            _logger.warning(
                "agent %s is new on %s and begins with its %d retained events; give start_from='now' to skip them",
                config.name,
                config.topic,
                info.length.value,
                extra=extra,
            )


async def _each(items: Iterable[S], work: Callable[[S], Awaitable[T]]) -> list[T]:
    """Return ``work`` of each item, in order, some of them at a time."""
    free = asyncio.Semaphore(AT_A_TIME)

    async def one(item: S) -> T:
        async with free:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))
