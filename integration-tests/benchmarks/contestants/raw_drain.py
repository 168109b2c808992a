"""A naive worker by hand on redis-py and hiredis: with group commit, and with separate awaits per event."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from redis.asyncio import Redis

from benchmarks.child import Job, Sample, main
from benchmarks.meter import Meter
from benchmarks.payload import body

STREAM, GROUP, ME, COUNTERS = "bench", "workers", "w1", "counters"
DAY_MS = 24 * 3600 * 1000
AHEAD = 100
_CHUNK = 1000


async def fill(job: Job, field: str = "e") -> Sample:
    """Publish the events and make the group."""
    async with Redis.from_url(job.url) as client:
        for first in range(0, job.events, _CHUNK):
            async with client.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + _CHUNK, job.events)):
                    pipe.xadd(STREAM, {field: body(number, job.size)})
                await pipe.execute()
        await client.xgroup_create(STREAM, GROUP, "0")
    return {}


async def agent(content: dict[str, Any]) -> dict[str, Any]:
    """Do nothing, as everybody's agent here."""
    return {"number": content["number"]}


async def _bytes_agent(_: bytes) -> bytes:
    return b'{"ok":true}'


async def drain_group(job: Job) -> Sample:
    """One MULTI stores result, counters and acknowledgement of all that has finished meanwhile."""
    decode, encode = (bytes, bytes) if job.more.get("opaque") else (json.loads, lambda one: json.dumps(one).encode())
    run: Any = _bytes_agent if job.more.get("opaque") else agent
    client, meter = Redis.from_url(job.url), Meter(job)
    finished: list[tuple[bytes, bytes, float]] = []
    wake = asyncio.Event()
    room = asyncio.Event()
    running = 0

    async def handle(event_id: bytes, fields: dict[bytes, bytes]) -> None:
        began = time.perf_counter()
        meter.hit()
        result = encode(await run(decode(fields[b"e"])))
        finished.append((event_id, result, time.perf_counter() - began))
        wake.set()

    async def commit() -> None:
        nonlocal running
        done = 0
        while done < job.events:
            await wake.wait()
            wake.clear()
            batch, finished[:] = list(finished), []
            async with client.pipeline(transaction=True) as pipe:
                for event_id, result, _ in batch:
                    pipe.set(b"result:" + event_id, result, px=DAY_MS)
                pipe.hincrby(COUNTERS, "completed", len(batch))
                pipe.hincrbyfloat(COUNTERS, "seconds", sum(took for _, _, took in batch))
                pipe.xack(STREAM, GROUP, *(event_id for event_id, _, _ in batch))
                await pipe.execute()
            done += len(batch)
            running -= len(batch)
            room.set()

    committer = asyncio.create_task(commit())
    tasks: set[asyncio.Task[None]] = set()
    left = job.events
    while left:
        reply: Any = await client.xreadgroup(GROUP, ME, {STREAM: ">"}, count=AHEAD, block=1000)
        entries = _entries(reply)
        for event_id, fields in entries:
            task = asyncio.create_task(handle(event_id, fields))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        left -= len(entries)
        running += len(entries)
        while running > AHEAD:  # at most one batch read while one is committed
            room.clear()
            await room.wait()
    await committer
    return meter.sample()


async def drain_awaits(job: Job) -> Sample:
    """A task per event that awaits result, counters and acknowledgement one after the other."""
    client, meter = Redis.from_url(job.url), Meter(job)

    async def handle(event_id: bytes, fields: dict[bytes, bytes]) -> None:
        began = time.perf_counter()
        meter.hit()
        result = await agent(json.loads(fields[b"e"]))
        await client.set(b"result:" + event_id, json.dumps(result), px=DAY_MS)
        await client.hincrby(COUNTERS, "completed", 1)
        await client.hincrbyfloat(COUNTERS, "seconds", time.perf_counter() - began)
        await client.xack(STREAM, GROUP, event_id)

    left = job.events
    while left:
        reply: Any = await client.xreadgroup(GROUP, ME, {STREAM: ">"}, count=AHEAD, block=1000)
        entries = _entries(reply)
        await asyncio.gather(*(handle(event_id, fields) for event_id, fields in entries))
        left -= len(entries)
    return meter.sample()


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream, whichever protocol version shaped the reply."""
    if not reply:
        return []
    if isinstance(reply, dict):
        return [entry for batch in reply[STREAM.encode()] for entry in batch]
    return list(reply[0][1])


if __name__ == "__main__":
    main({"fill": fill, "group": drain_group, "awaits": drain_awaits})
