"""The figures and their targets, computed from the samples of one round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.child import Sample

Round = Mapping[str, Sample]
"""The samples of one round, by the measurement's name."""


@dataclass(frozen=True)
class Figure:
    """``ours`` (and ``theirs``, for a ratio) are ``measurement:key``."""

    title: str
    ours: str
    theirs: str | None = None
    sign: Literal["<=", ">=", ""] = ""
    target: float = 0.0
    unit: str = ""

    def value(self, samples: Round) -> float | None:
        """The figure of one round, or None when a part of it is missing."""
        ours = _look(samples, self.ours)
        if self.theirs is None or ours is None:
            return ours
        theirs = _look(samples, self.theirs)
        return None if not theirs else ours / theirs

    def needs(self) -> set[str]:
        """The measurements it is made of."""
        return {path.partition(":")[0] for path in (self.ours, self.theirs) if path}

    def reached(self, value: float) -> bool | None:
        """Whether a value is good enough; None without a target."""
        if not self.sign:
            return None
        return value <= self.target if self.sign == "<=" else value >= self.target


def _look(samples: Round, path: str) -> float | None:
    name, _, key = path.partition(":")
    value = samples.get(name, {}).get(key)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Spread:
    """Min, median and max over the rounds."""

    low: float
    middle: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        return cls(min(values), statistics.median(values), max(values), len(values)) if values else None


def spread(figure: Figure, rounds: Sequence[Round]) -> Spread | None:
    """A figure over all rounds that have it."""
    return Spread.of([value for samples in rounds if (value := figure.value(samples)) is not None])


def _against(title: str, what: str, key: str, theirs: str, sign: Literal["<=", ">=", ""], target: float) -> Figure:
    return Figure(title, f"{what}/omnidaemon:{key}", f"{what}/{theirs}:{key}", sign, target, "x")


def _own(title: str, path: str, sign: Literal["<=", ">=", ""], target: float, unit: str) -> Figure:
    name, _, key = path.partition(":")
    return Figure(title, f"{name}/omnidaemon:{key}", None, sign, target, unit)


FIGURES: tuple[Figure, ...] = (
    _against("drain / group-commit loop", "drain", "rate", "group-commit", ">=", 0.7),
    _against("drain / FastStream", "drain", "rate", "faststream", ">=", 5),
    _against("drain / Taskiq", "drain", "rate", "taskiq", ">=", 5),
    _against("drain / separate awaits", "drain", "rate", "separate-awaits", "", 0),
    _against("drain / group-commit loop that decodes nothing", "drain", "rate", "group-commit-undecoded", "", 0),
    _against("CPU of the worker / group-commit loop", "drain", "worker_cpu", "group-commit", "<=", 1.5),
    _against("CPU of Redis / group-commit loop", "drain", "redis_cpu", "group-commit", "<=", 3),
    _against("publish one by one / XADD", "publish", "rate", "xadd", ">=", 0.65),
    Figure(
        "publish_many / pipelined XADD", "publish/omnidaemon-many:rate", "publish/xadd-pipelined:rate", ">=", 0.55, "x"
    ),
    Figure(
        "publish_many / pipelined XADD of ready bytes",
        "publish/omnidaemon-many:rate",
        "publish/xadd-pipelined-bytes:rate",
        unit="x",
    ),
    _against("publish-to-start p50 / XREADGROUP", "latency", "p50", "xreadgroup", "<=", 1.3),
    _against("publish-to-start p99 / XREADGROUP", "latency", "p99", "xreadgroup", "<=", 2),
    _against("import, a whole process / asyncio + pydantic", "import", "seconds", "pydantic", "<=", 1.4),
    _own("process start to first event", "worker:start", "<=", 0.35, "s"),
    _own("worker memory, idle", "worker:rss_idle", "<=", 52, "MB"),
    _own("worker memory, grown by the drain", "worker:rss_growth", "<=", 8, "MB"),
    _own("worker memory, grown by the backlog", "backlog:growth", "<=", 2, "MB"),
    _own("takeover after kill -9", "takeover:seconds", "<=", 20, "s"),
    _own("SQLite, publish and drain", "sqlite:rate", ">=", 3000, "/s"),
    _own("memory, publish and drain", "memory:rate", "", 0, "/s"),
    _own("idle agents: CPU of the worker", "idle-agents:worker_percent", "<=", 3, "%"),
    _own("idle agents: CPU of worker and Redis", "idle-agents:both_percent", "<=", 3, "%"),
    _own("idle agents: connections", "idle-agents:connections", "<=", 16, ""),
    _own("idle agents: a cold one's first event later by", "idle-agents:cold_later_ms", "<=", 50, "ms"),
    _own("kept in Redis beyond the allowed, per event", "drain:kept_beyond", "<=", 40, "B"),
)
