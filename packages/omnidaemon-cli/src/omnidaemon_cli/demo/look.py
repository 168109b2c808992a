"""The demo's eyes: everything that it says is asked for here, of the event bus or the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from omnidaemon import OmniDaemonSDK

__all__ = ["DemoError", "Look"]

T = TypeVar("T")
_LIMIT = 30.0
_PAUSE = 0.05


class DemoError(Exception):
    """Something that should have come about did not."""


class Look:
    """Questions to bus and store."""

    def __init__(self, sdk: OmniDaemonSDK) -> None:
        self._sdk = sdk

    async def until(self, what: str, look: Callable[[], Awaitable[T | None]]) -> T:
        """Ask again and again until there is an answer.

        Raises:
            DemoError: There was none in time.
        """
        end = time.monotonic() + _LIMIT
        while (found := await look()) is None:
            if time.monotonic() > end:
                raise DemoError(f"within {_LIMIT:g} s there was no {what}")
            await asyncio.sleep(_PAUSE)
        return found

    async def workers(self) -> dict[str, int]:
        """Return the workers that the store has heartbeats of: process by name."""
        return {worker["worker"]: worker["pid"] for worker in (await self._sdk.health()).get("workers", [])}

    async def tasks(self, agent: str) -> dict[str, dict[str, Any]]:
        """Return an agent's records by the name of the report."""
        tasks = (await self._sdk.list_tasks(agent=agent, limit=1000))["tasks"]
        names: dict[str, str] = {}
        # The event itself is on the bus: the store has it once it has taken the run over, or closed it.
        for topic in {task["topic"] for task in tasks}:
            for event in await self._sdk.inspect_topic(topic, limit=1000):
                names[event["data"]["id"]] = event["data"]["payload"]["content"]["name"]
        return {names[task["task_id"]]: task for task in tasks}

    async def ended(self, agent: str, name: str) -> dict[str, Any]:
        """Wait for the end of an agent's work on a report and return its record."""

        async def look() -> dict[str, Any] | None:
            task = (await self.tasks(agent)).get(name)
            return task if task is not None and task["state"] in ("completed", "failed") else None

        return await self.until(f"end of {agent}'s work on {name}", look)

    async def percent(self, task_id: str) -> float | None:
        """Return the last percentage of a task's progress stream, None while there is none."""
        last = None
        async for entry in self._sdk.task(task_id).progress(timeout=0):
            last = entry["percent"]
        return last

    async def length(self, topic: str) -> int:
        """Return how many events the bus has of a topic."""
        return int((await self._sdk.topic_stats(topic))["length"])
