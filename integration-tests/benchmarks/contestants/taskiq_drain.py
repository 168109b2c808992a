"""Taskiq with RedisStreamBroker, 100 tasks at a time. Keeps no result, no counters, no done marks."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from taskiq import TaskiqMessage
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.child import Job, Sample, main
from benchmarks.meter import Meter
from benchmarks.payload import content

STREAM, GROUP, TASK = "bench", "workers", "bench:handle"
_CHUNK = 1000


def _broker(job: Job) -> RedisStreamBroker:
    return RedisStreamBroker(job.url, queue_name=STREAM, consumer_group_name=GROUP, consumer_id="0", xread_count=100)


async def fill(job: Job) -> Sample:
    """Publish in Taskiq's own format."""
    formatter = _broker(job).formatter
    async with Redis.from_url(job.url) as client:
        for first in range(0, job.events, _CHUNK):
            async with client.pipeline(transaction=False) as pipe:
                for number in range(first, min(first + _CHUNK, job.events)):
                    message = TaskiqMessage(
                        task_id=str(number), task_name=TASK, labels={}, args=[content(number, job.size)], kwargs={}
                    )
                    pipe.xadd(STREAM, {b"data": formatter.dumps(message).message})
                await pipe.execute()
    return {}


async def drain(job: Job) -> Sample:
    """Handle all."""
    broker, meter = _broker(job), Meter(job)

    @broker.task(task_name=TASK)
    async def handle(message: dict[str, Any]) -> dict[str, Any]:
        meter.hit()
        return {"number": message["number"]}

    client = Redis.from_url(job.url)
    receiver = asyncio.create_task(run_receiver_task(broker, max_async_tasks=100, run_startup=True))
    waiter = asyncio.create_task(meter.acknowledged(client, STREAM, GROUP))
    await asyncio.wait({receiver, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if receiver.done():
        await receiver
    return meter.sample()


if __name__ == "__main__":
    main({"fill": fill, "drain": drain})
