"""Publishing by hand: XADD one by one, and pipelined, of content that it turns into JSON as everybody must.

``ready`` has its bytes ready-made, so that nothing but the client and the server is measured.
"""

from __future__ import annotations

import json
import time

from redis.asyncio import Redis

from benchmarks.child import Job, Sample, main
from benchmarks.payload import body, content

STREAM = "bench"
_CHUNK = 1000


async def one_by_one(job: Job) -> Sample:
    """One awaited XADD after the other."""
    contents = [content(number, job.size) for number in range(job.events)]
    async with Redis.from_url(job.url) as client:
        await client.ping()
        began = time.perf_counter()
        for one in contents:
            await client.xadd(STREAM, {"e": json.dumps(one)})
        return {"rate": job.events / (time.perf_counter() - began)}


async def pipelined(job: Job) -> Sample:
    """Pipelines of a thousand, without MULTI."""
    contents = [content(number, job.size) for number in range(job.events)]
    async with Redis.from_url(job.url) as client:
        await client.ping()
        began = time.perf_counter()
        for first in range(0, job.events, _CHUNK):
            async with client.pipeline(transaction=False) as pipe:
                for one in contents[first : first + _CHUNK]:
                    pipe.xadd(STREAM, {"e": json.dumps(one)})
                await pipe.execute()
        return {"rate": job.events / (time.perf_counter() - began)}


async def ready(job: Job) -> Sample:
    """The same of bytes that are there already."""
    bodies = [body(number, job.size) for number in range(job.events)]
    async with Redis.from_url(job.url) as client:
        await client.ping()
        began = time.perf_counter()
        for first in range(0, job.events, _CHUNK):
            async with client.pipeline(transaction=False) as pipe:
                for one in bodies[first : first + _CHUNK]:
                    pipe.xadd(STREAM, {"e": one})
                await pipe.execute()
        return {"rate": job.events / (time.perf_counter() - began)}


if __name__ == "__main__":
    main({"one": one_by_one, "pipelined": pipelined, "ready": ready})
