"""The application of the demo: two agents, written as users write theirs.

``summarise`` stands for an agent that takes its time and calls a service that fails now and then; what
it publishes when it is done is the work of ``catalogue``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from omnidaemon import Context, OmniDaemonSDK, RetryPolicy

__all__ = ["LEASE", "Report", "sdk"]

# How long the store waits for a worker that no longer renews its claims; 15 s by default.
LEASE = 2.0

sdk = OmniDaemonSDK()


class Report(BaseModel):
    """What is published on ``report.uploaded``.

    Attributes:
        name: A file in the folder of the demo.
        seconds: How long it takes to summarise.
        busy: Whether the service is overloaded at the first attempt.
    """

    name: str
    seconds: float
    busy: bool = False


class Summary(BaseModel):
    """What the agent returns; the two processes show who did what."""

    words: int
    read_by: int
    finished_by: int


def read(name: str) -> dict[str, str | int]:
    """Read a report; as a step, it is done once however often the agent has to begin again."""
    return {"text": Path(name).read_text(encoding="utf-8"), "pid": os.getpid()}


@sdk.agent("report.uploaded", lease=LEASE, retry=RetryPolicy(max_attempts=3, initial=0.3, jitter="none"))
async def summarise(report: Report, ctx: Context) -> Summary:
    """Summarise a report and announce it."""
    found = await ctx.step("read", read, report.name)
    if report.busy and ctx.attempt == 1:
        raise ConnectionError("the model is overloaded")
    for percent in (25, 50, 75, 100):
        await asyncio.sleep(report.seconds / 4)
        await ctx.progress("summarising", percent=percent)
    # Part of the outcome: it is sent once, if and when this attempt is the one that counts.
    await ctx.publish("report.summarised", {"name": report.name})
    return Summary(words=len(found["text"].split()), read_by=found["pid"], finished_by=os.getpid())


@sdk.agent("report.summarised", lease=LEASE)
def catalogue(message: dict) -> str:  # type: ignore[type-arg] # as users write it
    """File the summary; a plain function runs in a thread."""
    return f"filed {message['content']['name']}"
