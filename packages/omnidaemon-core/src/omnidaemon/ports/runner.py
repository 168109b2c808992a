"""The Runner port: what executes ONE agent object for one event (design §5 R1-R9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.ports.context import Context

__all__ = ["Done", "Runner", "RunnerCapabilities"]


@dataclass(frozen=True, kw_only=True)
class RunnerCapabilities:
    """What a runner declares.

    Attributes:
        name: The framework's import path, or ``callback``.
        cancellable: Cancelling :meth:`Runner.run` stops the agent; a thread cannot be stopped (D10).
        resumable: A run that waits for a human continues inside instead of starting from the top.
        streams: It emits partial output.
    """

    name: str
    cancellable: bool = True
    resumable: bool = False
    streams: bool = False


@dataclass(slots=True)
class Done:
    """A finished run: ``value`` is any JSON value, pydantic model or dataclass."""

    value: Any


class Runner(Protocol):
    """Runs an agent. One instance serves many runs at the same time."""

    port_version: int
    capabilities: RunnerCapabilities

    async def open(self) -> None:
        """Get ready; called once in the loop that will call :meth:`run`."""
        ...

    async def run(self, event: EventEnvelope, context: Context) -> Done:
        """Execute the agent.

        Raises:
            RetryAfter: Try again later, spending no attempt.
            NonRetryable: Trying again cannot help.
            Exception: Anything else is retried by the agent's policy.
        """
        ...

    async def close(self, grace: float) -> None:
        """Let go of everything within ``grace`` seconds."""
        ...
