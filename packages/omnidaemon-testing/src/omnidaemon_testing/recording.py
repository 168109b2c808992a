"""A context that only writes down what an agent does with it: runners can be tested without a worker."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.runtime.signals import AskSignal

__all__ = ["RecordingContext"]


class RecordingContext:
    """See :class:`omnidaemon.ports.context.Context`.

    Attributes:
        entries: What ``progress`` (as message, percent, data) and ``emit`` (as chunk) were given.
        used: Sums of ``usage``.
        published: Topic and content of the planned follow-ups.
        answers: What ``ask`` returns, by key; an unknown key unwinds the run.
    """

    def __init__(self, event: EventEnvelope, agent: str = "agent", answers: dict[str, Any] | None = None) -> None:
        self.event, self.agent = event, agent
        self.attempt, self.starts = 1, 1
        self.deadline: float | None = None
        self.cancelled = threading.Event()
        self.state: Any = None
        self.entries: list[Any] = []
        self.used: dict[str, float] = {}
        self.published: list[tuple[str, Any]] = []
        self.answers = {} if answers is None else answers
        self._steps: dict[str, Any] = {}

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger."""
        return logging.LoggerAdapter(logging.getLogger("omnidaemon.agent"), {"agent": self.agent})

    async def progress(self, message: str | None = None, percent: float | None = None, data: Any = None) -> None:
        """Write an entry down."""
        self.entries.append({"message": message, "percent": percent, "data": data})

    async def emit(self, chunk: Any) -> None:
        """Write a chunk down."""
        self.entries.append(chunk)

    async def publish(self, topic: str, content: Any, **fields: Any) -> str:
        """Write a follow-up down."""
        self.published.append((topic, content))
        return str(fields.get("id", f"follow-up-{len(self.published)}"))

    async def step(self, key: str, fn: Callable[..., Awaitable[Any] | Any], *args: Any) -> Any:
        """Call once for each key."""
        if key not in self._steps:
            value = fn(*args)
            self._steps[key] = await value if inspect.isawaitable(value) else value
        return self._steps[key]

    async def ask(self, key: str, question: str, schema: Any = None, timeout: float | None = None) -> Any:
        """Return the answer there is, or unwind."""
        if key in self.answers:
            return self.answers[key]
        raise AskSignal(key, question, schema, timeout)

    def usage(self, **amounts: float) -> None:
        """Add up."""
        for name, amount in amounts.items():
            self.used[name] = self.used.get(name, 0) + amount
