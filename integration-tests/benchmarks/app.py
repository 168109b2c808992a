"""What ``omnidaemon run benchmarks.app:sdk`` runs for the probes. Imports nothing that a user's module would not."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

from omnidaemon import AgentConfig, EventEnvelope, OmniDaemonSDK, SubscriptionConfig

MODE = os.environ.get("BENCH_MODE", "noop")
EVENTS = int(os.environ.get("BENCH_EVENTS", "0"))
AGENTS = int(os.environ.get("BENCH_AGENTS", "1000"))
URL = os.environ["BENCH_URL"]

sdk = OmniDaemonSDK(event_bus=URL, store=URL)
_marks = os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_counter = itertools.count(1)


def _mark(kind: str, event: EventEnvelope) -> None:
    line = f"{kind} {os.getpid()} {time.monotonic_ns()} {event.topic} {event.content.get('sent', 0)}\n"
    os.write(_marks, line.encode())


async def noop(event: EventEnvelope) -> dict[str, int]:
    """Mark the first and the last."""
    count = next(_counter)
    if count == 1:
        _mark("first", event)
    if count == EVENTS:
        _mark("last", event)
    return {"number": event.content["number"]}


async def slow(event: EventEnvelope) -> None:
    """Leave a backlog standing."""
    if next(_counter) == 1:
        _mark("first", event)
    await asyncio.sleep(0.1)


async def hold(event: EventEnvelope) -> None:
    """Take an event and never finish it."""
    _mark("start", event)
    await asyncio.sleep(3600)


async def note(event: EventEnvelope) -> None:
    """Mark each."""
    _mark("start", event)


if MODE == "many":
    for _topic in ("bench.warm", *(f"bench.cold.{number}" for number in range(AGENTS - 1))):
        sdk.add_agent(AgentConfig(topic=_topic, name="bench", callback=note))
else:
    _callback = {"noop": noop, "slow": slow, "hold": hold}[MODE]
    _config = SubscriptionConfig() if MODE == "hold" else SubscriptionConfig(max_concurrency=100)
    sdk.add_agent(AgentConfig(topic="bench.work", name="bench", callback=_callback, config=_config))
