"""The worker process that the crash tests start, kill and freeze; each run leaves a line in a file."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from omnidaemon import Context, OmniDaemonSDK, RetryPolicy

LEASE = float(os.environ["CHAOS_LEASE"])
sdk = OmniDaemonSDK(event_bus=os.environ["CHAOS_BACKEND"], store=os.environ["CHAOS_BACKEND"])
_file = os.open(os.environ["CHAOS_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(what: str, event_id: str) -> None:
    # One short write to a file opened for appending is atomic between processes.
    os.write(_file, f"{what} {event_id} {os.getpid()}\n".encode())


@sdk.agent("chaos", max_concurrency=8, lease=LEASE, retry=RetryPolicy(initial=0.1, max=0.5))
async def work(message: dict[str, Any], ctx: Context) -> int:
    _note("start", ctx.event.id)
    number = message["content"]["number"]
    await asyncio.sleep(0.02)
    if number % 10 == 3 and ctx.attempt == 1:
        raise RuntimeError("the first attempt of every tenth event fails")
    if number % 10 == 5:
        await ctx.publish("chaos.next", {"number": number})
    _note("end", ctx.event.id)
    return int(number)


@sdk.agent("chaos.next", lease=LEASE)
async def count(message: dict[str, Any]) -> None:
    _note("next", str(message["content"]["number"]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sdk.run()
