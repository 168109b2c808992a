"""Tables for people and JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Sample
from benchmarks.figures import FIGURES, Figure, Round, Spread, spread

_UNITS = {
    "rate": "/s",
    "publish_rate": "/s",
    "drain_rate": "/s",
    "worker_cpu": "s CPU per 10,000",
    "redis_cpu": "s CPU of Redis per 10,000",
    "rss": "MB",
    "rss_few": "MB",
    "rss_idle": "MB",
    "rss_after": "MB",
    "p50": "ms p50",
    "p99": "ms p99",
    "publish_p50": "ms to publish, p50",
    "seconds": "s",
    "cpu": "s CPU",
    "start": "s",
    "warm_ms": "ms",
    "cold_ms": "ms",
    "rss_growth": "MB",
    "growth": "MB",
    "first": "s",
    "worker_percent": "% of a core",
    "both_percent": "% of a core",
    "cold_later_ms": "ms",
}


_HIDDEN = {"runs", "processes"}


def number(value: float) -> str:
    """Three digits that matter, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def verdict(figure: Figure, found: Spread) -> str:
    """Of the median."""
    reached = figure.reached(found.middle)
    return "" if reached is None else "reached" if reached else "MISSED"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (tuple(zip(row, widths, strict=True)) for row in (header, *rows))
    ]


def ratios(rounds: Sequence[Round], chosen: Collection[str]) -> list[str]:
    """The figures that the chosen measurements give, with their targets."""
    rows = []
    for figure in FIGURES:
        found = spread(figure, rounds)
        target = f"{figure.sign} {number(figure.target)} {figure.unit}".strip() if figure.sign else ""
        if found:
            cells = (number(found.low), number(found.middle), number(found.high), str(found.rounds))
            rows.append((figure.title, *cells, target, verdict(figure, found)))
        elif figure.needs() <= set(chosen):
            rows.append((figure.title, "-", "-", "-", "0", target, "not measured"))
    return _table(("figure", "min", "median", "max", "rounds", "target", ""), rows) if rows else []


def absolutes(rounds: Sequence[Round]) -> list[str]:
    """What each contestant did, as measured here."""
    rows = []
    for name in dict.fromkeys(name for samples in rounds for name in samples):
        for key in _keys(rounds, name):
            values = [float(samples[name][key]) for samples in rounds if key in samples.get(name, {})]
            if found := Spread.of(values):
                cells = (number(found.low), number(found.middle), number(found.high))
                rows.append((f"{name} {key}", *cells, _unit(key)))
    return _table(("absolute (differs from machine to machine)", "min", "median", "max", ""), rows)


def _keys(rounds: Sequence[Round], name: str) -> list[str]:
    samples = [one[name] for one in rounds if name in one]
    found = dict.fromkeys(key for sample in samples for key in sample if key not in _HIDDEN)
    if "rate" in found:
        found.pop("seconds", None)  # the same again
    return [key for key in found if all(isinstance(one.get(key, 0), int | float) for one in samples)]


def _unit(key: str) -> str:
    return "B per event" if key.startswith("kept_") else _UNITS.get(key, "")


def missed(rounds: Sequence[Round]) -> list[str]:
    """Titles of the figures whose median misses the target."""
    return [one.title for one in FIGURES if (found := spread(one, rounds)) and one.reached(found.middle) is False]


def document(rounds: Sequence[Round], failures: Sequence[str], setting: Sample) -> Sample:
    """Everything, for ``--json``."""
    figures: list[dict[str, Any]] = []
    for figure in FIGURES:
        found = spread(figure, rounds)
        figures.append(
            {
                "title": figure.title,
                "unit": figure.unit,
                "sign": figure.sign,
                "target": figure.target if figure.sign else None,
                "min": found and found.low,
                "median": found and found.middle,
                "max": found and found.high,
                "rounds": found.rounds if found else 0,
                "reached": found and figure.reached(found.middle),
            }
        )
    return {"setting": setting, "figures": figures, "failures": list(failures), "rounds": list(rounds)}


def setting(redis_version: str, events: int) -> Sample:
    """Where and with what it was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "python": platform.python_version(),
        "redis": redis_version,
        "processors": os.cpu_count(),
        "processor": model,
        "events": events,
        "load": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def write(path: Path, content: Sample) -> None:
    """As JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")
