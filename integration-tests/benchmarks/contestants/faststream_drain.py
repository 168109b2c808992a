"""FastStream on a Redis stream group, 100 read ahead. Keeps no result, no counters, no done marks."""

from __future__ import annotations

from typing import Any

from faststream.redis import RedisBroker, StreamSub
from faststream.redis.parser import BinaryMessageFormatV1
from redis.asyncio import Redis

from benchmarks.child import Job, Sample, main
from benchmarks.meter import Meter
from benchmarks.payload import content

STREAM, GROUP = "bench", "workers"
_CHUNK = 1000


async def fill(job: Job) -> Sample:
    """Publish in FastStream's own format."""
    async with Redis.from_url(job.url) as client:
        for first in range(0, job.events, _CHUNK):
            async with client.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + _CHUNK, job.events)):
                    message = await BinaryMessageFormatV1.encode(
                        message=content(number, job.size), reply_to=None, headers=None, correlation_id=str(number)
                    )
                    pipe.xadd(STREAM, {"__data__": message})
                await pipe.execute()
        await client.xgroup_create(STREAM, GROUP, "0")
    return {}


async def drain(job: Job) -> Sample:
    """Handle all; without its access log, which costs it a third."""
    silent: Any = None
    broker, meter = RedisBroker(job.url, logger=silent), Meter(job)
    source = StreamSub(STREAM, group=GROUP, consumer="w1", max_records=100)
    workers = int(job.more.get("workers", 1))
    options: dict[str, Any] = {"max_workers": workers} if workers > 1 else {}

    subscriber: Any = broker.subscriber(stream=source, **options)

    async def handle(message: dict[str, Any]) -> dict[str, Any]:
        meter.hit()
        return {"number": message["number"]}

    subscriber(handle)

    client = Redis.from_url(job.url)
    await broker.start()
    await meter.acknowledged(client, STREAM, GROUP)
    return meter.sample()


if __name__ == "__main__":
    main({"fill": fill, "drain": drain})
