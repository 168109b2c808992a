"""Everything that a round runs, by name: ``what/who``."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import kept, probes
from benchmarks.bench import Bench, BenchError
from benchmarks.child import Sample
from benchmarks.pacing import RATE

_OURS = "omnidaemon_contestant"
_IMPORTS = 5
_BASE_CODE = "import asyncio, pydantic\nclass One(pydantic.BaseModel):\n    number: int\n"
_OURS_CODE = "from omnidaemon import OmniDaemonSDK, AgentConfig, EventEnvelope\n"
_LATENCY_SECONDS = 5


@dataclass(frozen=True)
class Measurement:
    """One contestant at one task."""

    name: str
    run: Callable[[Bench], Sample]
    ours: bool = False
    """Needs OmniDaemon to be installed."""
    slow: bool = False
    """Runs in the first rounds only."""


def _drain(module: str, mode: str, bench: Bench, **more: object) -> Sample:
    bench.run(module, "fill")
    return bench.run(module, mode, **more)


def _our_drain(bench: Bench) -> Sample:
    sample = _drain(_OURS, "drain", bench)
    return sample | kept.measure(bench.client, bench.events)


def _publish(module: str, mode: str, share: int, bench: Bench) -> Sample:
    return bench.run(module, mode, events=max(bench.events // share, 500))


def _latency(module: str, bench: Bench) -> Sample:
    count = RATE * _LATENCY_SECONDS
    with bench.begin(module, "consume", events=count) as consumer:
        consumer.ready()
        sent = bench.run(module, "publish", events=count)
        return consumer.sample() | sent


def _import(code: str, _bench: Bench) -> Sample:
    seconds, cpu = [], []
    for _turn in range(_IMPORTS):
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", code])
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        ended, status, used = os.wait4(process.pid, 0)  # subprocess itself waits in steps of up to 50 ms
        seconds.append(time.perf_counter() - began)
        cpu.append(used.ru_utime + used.ru_stime)
        watchdog.cancel()
        process.returncode = status
        if status:
            raise BenchError(f"the import in process {ended} ended with status {status}")
    return {"seconds": statistics.median(seconds), "cpu": statistics.median(cpu)}


def _embedded(backend: str, bench: Bench) -> Sample:
    return bench.run(_OURS, "embedded", backend=backend)


_part = functools.partial
ALL: tuple[Measurement, ...] = (
    Measurement("drain/group-commit", _part(_drain, "raw_drain", "group")),
    Measurement("drain/omnidaemon", _our_drain, ours=True),
    Measurement("drain/group-commit-undecoded", _part(_drain, "raw_drain", "group", opaque=True)),
    Measurement("drain/separate-awaits", _part(_drain, "raw_drain", "awaits")),
    Measurement("drain/faststream", _part(_drain, "faststream_drain", "drain")),
    Measurement("drain/taskiq", _part(_drain, "taskiq_drain", "drain")),
    Measurement("publish/xadd", _part(_publish, "raw_publish", "one", 4)),
    Measurement("publish/omnidaemon", _part(_publish, _OURS, "one", 4), ours=True),
    Measurement("publish/xadd-pipelined", _part(_publish, "raw_publish", "pipelined", 1)),
    Measurement("publish/xadd-pipelined-bytes", _part(_publish, "raw_publish", "ready", 1)),
    Measurement("publish/omnidaemon-many", _part(_publish, _OURS, "many", 1), ours=True),
    Measurement("latency/xreadgroup", _part(_latency, "raw_latency")),
    Measurement("latency/omnidaemon", _part(_latency, _OURS), ours=True),
    Measurement("import/pydantic", _part(_import, _BASE_CODE)),
    Measurement("import/omnidaemon", _part(_import, _OURS_CODE), ours=True),
    Measurement("worker/omnidaemon", probes.start_and_memory, ours=True),
    Measurement("sqlite/omnidaemon", _part(_embedded, "sqlite"), ours=True),
    Measurement("memory/omnidaemon", _part(_embedded, "memory"), ours=True),
    Measurement("backlog/omnidaemon", probes.backlog, ours=True, slow=True),
    Measurement("takeover/omnidaemon", probes.takeover, ours=True, slow=True),
    Measurement("idle-agents/omnidaemon", probes.idle_agents, ours=True, slow=True),
)


def installed() -> str | None:
    """Why OmniDaemon's measurements cannot run, or None."""
    done = subprocess.run([sys.executable, "-c", _OURS_CODE], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None
