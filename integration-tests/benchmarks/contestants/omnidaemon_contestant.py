"""OmniDaemon through its public interface: drain, publish, latency, SQLite, and what the probes publish."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from benchmarks.child import Job, Sample, main
from benchmarks.meter import Meter
from benchmarks.pacing import Latencies, publish_evenly
from benchmarks.payload import content
from omnidaemon import EventEnvelope, OmniDaemonSDK

TOPIC, AGENT, AHEAD = "bench.work", "bench", 100
WARM, COLD = "bench.warm", "bench.cold.{}"
_CHUNK = 20_000


def _sdk(job: Job) -> OmniDaemonSDK:
    return OmniDaemonSDK(event_bus=job.url, store=job.url)


async def _publish_all(sdk: OmniDaemonSDK, job: Job) -> float:
    """Publish the job's events as users would; seconds inside publish_many."""
    took, topic = 0.0, job.more.get("topic", TOPIC)
    for first in range(0, job.events, _CHUNK):
        batch = [(topic, content(number, job.size)) for number in range(first, min(first + _CHUNK, job.events))]
        began = time.perf_counter()
        outcomes = await sdk.publish_many(batch)
        took += time.perf_counter() - began
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
    return took


async def _counted(sdk: OmniDaemonSDK) -> int:
    """How many are settled: where bus and store are one server, record, counters and acknowledgement are one step."""
    return int((await sdk.metrics(TOPIC)).get(TOPIC, {}).get(AGENT, {}).get("tasks_processed", 0))


async def fill(job: Job) -> Sample:
    """Publish the events."""
    async with _sdk(job) as sdk:
        await _publish_all(sdk, job)
    return {}


async def publish_one(job: Job) -> Sample:
    """One awaited publish after the other, from the caller's loop."""
    contents = [content(number, job.size) for number in range(job.events)]
    async with _sdk(job) as sdk:
        await sdk.publish(TOPIC, content(-1))
        began = time.perf_counter()
        for one in contents:
            await sdk.publish(TOPIC, one)
        return {"rate": job.events / (time.perf_counter() - began)}


async def publish_many(job: Job) -> Sample:
    """All at once."""
    async with _sdk(job) as sdk:
        await sdk.publish(TOPIC, content(-1))
        return {"rate": job.events / await _publish_all(sdk, job)}


async def _work(sdk: OmniDaemonSDK, job: Job) -> Sample:
    """Handle all that was published, in this process."""
    meter = Meter(job)

    @sdk.agent(TOPIC, name=AGENT, max_concurrency=AHEAD)
    async def bench(event: EventEnvelope) -> dict[str, Any]:
        meter.hit()
        return {"number": event.content["number"]}

    await _counted(sdk)  # connects
    await sdk.start()
    await meter.reached.wait()
    while (counted := await _counted(sdk)) < job.events:  # noqa: ASYNC110 - happens in a server
        await asyncio.sleep(0.002)
    sample = meter.sample()
    await sdk.shutdown()
    if counted != job.events:
        raise RuntimeError(f"{job.events} published, {counted} counted")
    return sample


async def drain(job: Job) -> Sample:
    """Redis for both: result for 24 h, counters, dedup."""
    return await _work(_sdk(job), job)


async def embedded(job: Job) -> Sample:
    """Memory or SQLite for both, end to end: the time to publish plus the time to drain."""
    os.environ["SQLITE_PATH"] = f"{job.out}.db"
    sdk = OmniDaemonSDK(event_bus=job.more["backend"], store=job.more["backend"])
    published = await _publish_all(sdk, job)
    sample = await _work(sdk, job)
    return {
        "rate": job.events / (published + sample["seconds"]),
        "publish_rate": job.events / published,
        "drain_rate": sample["rate"],
        "worker_cpu": sample["worker_cpu"],
    }


async def consume(job: Job) -> Sample:
    """A worker that waits for what `publish` sends."""
    latencies, sdk = Latencies(job), _sdk(job)

    @sdk.agent(TOPIC, name=AGENT, max_concurrency=AHEAD)
    async def bench(event: EventEnvelope) -> None:
        latencies.start(event.content)

    await sdk.start()
    job.ready()
    await latencies.complete.wait()
    await sdk.shutdown()
    return latencies.sample()


async def publish(job: Job) -> Sample:
    """Publish evenly."""
    async with _sdk(job) as sdk:
        return await publish_evenly(job, lambda one: sdk.publish(TOPIC, one))


async def warm_and_cold(job: Job) -> Sample:
    """Keep one topic warm, and publish first events of cold ones in between."""
    choose = random.Random(job.events)
    async with _sdk(job) as sdk:
        for number in range(30):
            await sdk.publish(WARM, content(number, sent=time.monotonic_ns()))
            await asyncio.sleep(0.1)
        for number in range(job.events):
            await sdk.publish(COLD.format(number), content(number, sent=time.monotonic_ns()))
            await asyncio.sleep(choose.uniform(0.05, 0.15))
            await sdk.publish(WARM, content(100 + number, sent=time.monotonic_ns()))
            await asyncio.sleep(choose.uniform(0.05, 0.15))
    return {}


if __name__ == "__main__":
    main(
        {
            "fill": fill,
            "one": publish_one,
            "many": publish_many,
            "drain": drain,
            "embedded": embedded,
            "consume": consume,
            "publish": publish,
            "warm-and-cold": warm_and_cold,
        }
    )
