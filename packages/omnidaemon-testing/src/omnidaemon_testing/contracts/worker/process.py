"""A worker in a process of its own, to be killed: ``python -m omnidaemon_testing.contracts.worker.process``.

It reads one pickled :class:`Order` from standard input, and serves one agent that does what its
events say. Every start and end is a line in a file, so that the test can count them.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from omnidaemon import AgentConfig, Context, OmniDaemonSDK, RetryPolicy, SubscriptionConfig
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store

__all__ = ["Order"]


@dataclass(slots=True)
class Order:
    """What a worker process is to do; ``bus`` and ``store`` are unopened.

    Attributes:
        journal: File that gets a line for each start and end.
        lease: The agent's lease.
    """

    bus: EventBus
    store: Store
    topic: str
    journal: str
    lease: float
    max_concurrency: int = 4
    settings: dict[str, Any] = field(default_factory=dict)


class _Agent:
    def __init__(self, journal: str) -> None:
        # One short write to a file opened for appending is atomic between processes.
        self._file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def _note(self, what: str, ctx: Context) -> None:
        os.write(self._file, f"{what} {ctx.event.id} {ctx.attempt} {os.getpid()} {time.time()}\n".encode())

    async def __call__(self, message: dict[str, Any], ctx: Context) -> Any:
        """Wait for as long as the event says, or die."""
        self._note("start", ctx)
        content = message["content"]
        if content.get("die") and ctx.attempt == 1:
            os._exit(9)
        await asyncio.sleep(content.get("wait", 0.0))
        if content.get("follow"):
            await ctx.publish(content["follow"], content["number"])
        self._note("end", ctx)
        return content.get("number")


def main() -> None:
    """Serve until SIGTERM."""
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
    settings = {"allow_local_store": True, **order.settings}
    sdk = OmniDaemonSDK(event_bus=order.bus, store=order.store, **settings)
    config = SubscriptionConfig(
        lease=order.lease, max_concurrency=order.max_concurrency, retry=RetryPolicy(max_attempts=3, initial=0.05)
    )
    sdk.add_agent(AgentConfig(topic=order.topic, name="agent", callback=_Agent(order.journal), config=config))
    sdk.run()


if __name__ == "__main__":
    main()
