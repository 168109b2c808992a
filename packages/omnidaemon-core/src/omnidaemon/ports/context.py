"""What an agent is given besides its event (``api.md`` §4)."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from omnidaemon.model.envelope import EventEnvelope

__all__ = ["RUNNING", "CancelFlag", "Context", "current_context", "running_context"]


class CancelFlag(Protocol):
    """Tells a run that its outcome is no longer wanted; safe to read from any thread."""

    def is_set(self) -> bool:
        """Return whether the run is to stop."""
        ...


class Context(Protocol):
    """The run's own view of the runtime; every call is fenced by its claim."""

    @property
    def event(self) -> EventEnvelope:
        """The event."""
        ...

    @property
    def agent(self) -> str:
        """The agent's name."""
        ...

    @property
    def attempt(self) -> int:
        """Number of this try, from 1."""
        ...

    @property
    def starts(self) -> int:
        """How often this run was started, lost starts included."""
        ...

    @property
    def deadline(self) -> float | None:
        """Wall-clock time, seconds, by which the attempt must end; None for no limit."""
        ...

    @property
    def cancelled(self) -> CancelFlag:
        """Set when the run's outcome is no longer wanted."""
        ...

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry agent, event and attempt."""
        ...

    @property
    def state(self) -> Any:
        """What the process gave its runs to share, None if nothing."""
        ...

    async def progress(self, message: str | None = None, percent: float | None = None, data: Any = None) -> None:
        """Add an entry to the run's progress stream."""
        ...

    async def emit(self, chunk: Any) -> None:
        """Add partial output to the run's progress stream."""
        ...

    async def publish(self, topic: str, content: Any, **fields: Any) -> str:
        """Plan a follow-up event, sent if and only if this attempt is settled well; return its id."""
        ...

    async def step(self, key: str, fn: Callable[..., Awaitable[Any] | Any], *args: Any) -> Any:
        """Call ``fn(*args)`` once for this run: what it returned is found again by retries."""
        ...

    async def ask(self, key: str, question: str, schema: Any = None, timeout: float | None = None) -> Any:
        """Return a human's answer; without one yet, end the attempt and wait for it (R6)."""
        ...

    def usage(self, **amounts: float) -> None:
        """Add to what this run used, e.g. ``input_tokens=…, cost=…``; summed in record and metrics."""
        ...


# Set by the worker around each run.
RUNNING: contextvars.ContextVar[Context] = contextvars.ContextVar("omnidaemon_context")


def running_context() -> Context | None:
    """Return the context of the run this code is part of, None outside of one."""
    return RUNNING.get(None)


def current_context() -> Context:
    """Return the context of the run this code is part of, also deep inside a tool or a thread.

    Raises:
        LookupError: Outside of a run.
    """
    try:
        return RUNNING.get()
    except LookupError:
        raise LookupError("current_context() was called outside of an agent's run") from None
