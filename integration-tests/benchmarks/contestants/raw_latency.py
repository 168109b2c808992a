"""A raw consumer that blocks in XREADGROUP, and its publisher."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from benchmarks.child import Job, Sample, main
from benchmarks.pacing import Latencies, publish_evenly

STREAM, GROUP, ME = "bench", "workers", "w1"


async def consume(job: Job) -> Sample:
    """Start what is read in order, acknowledge, read on."""
    latencies = Latencies(job)
    async with Redis.from_url(job.url) as client:
        await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        job.ready()
        while not latencies.complete.is_set():
            reply: Any = await client.xreadgroup(GROUP, ME, {STREAM: ">"}, count=100, block=1000)
            entries = (reply[STREAM.encode()][0] if isinstance(reply, dict) else reply[0][1]) if reply else []
            for event_id, fields in entries:
                latencies.start(json.loads(fields[b"e"]))
                await client.xack(STREAM, GROUP, event_id)
    return latencies.sample()


async def publish(job: Job) -> Sample:
    """Publish evenly by XADD."""
    async with Redis.from_url(job.url) as client:
        await client.ping()
        return await publish_evenly(job, lambda one: client.xadd(STREAM, {"e": json.dumps(one)}))


if __name__ == "__main__":
    main({"consume": consume, "publish": publish})
