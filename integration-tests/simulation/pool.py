"""Runs many histories, over several processes if asked."""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulation.history import run
from simulation.profile import draw

__all__ = ["Summary", "run_many", "run_one"]

_COLLECT_EVERY = 10


@dataclass(slots=True)
class Summary:
    """What became of many histories."""

    histories: int = 0
    claims: int = 0
    virtual: float = 0.0
    failures: list[str] = field(default_factory=list)


def run_one(seed: int, kind: str | None = None, theme: str | None = None) -> tuple[int, float, str]:
    """Run one; return its claims, its virtual seconds, and what is wrong as text."""
    profile = draw(seed, kind, theme)
    try:
        report = run(profile)
    except Exception:  # noqa: BLE001 - a seed that breaks the simulation itself is to be seen like any other
        return 0, 0.0, f"{profile}\n{traceback.format_exc()}"
    if not report.violations:
        return report.accepted, report.virtual, ""
    options = f" --kind {kind}" * (kind is not None) + f" --theme {theme}" * (theme is not None)
    text = "\n  ".join([str(profile), *report.violations[:3]])
    return report.accepted, report.virtual, f"{text}\n  python -m simulation --seed {seed}{options} --verbose"


def _chunk(work: tuple[Sequence[int], str | None, str | None]) -> Summary:
    seeds, kind, theme = work
    summary = Summary()
    gc.disable()
    for number, seed in enumerate(seeds):
        claims, virtual, failure = run_one(seed, kind, theme)
        summary.histories += 1
        summary.claims += claims
        summary.virtual += virtual
        if failure:
            summary.failures.append(failure)
        if number % _COLLECT_EVERY == 0:
            gc.collect()
    gc.enable()
    return summary


def run_many(seeds: Iterable[int], kind: str | None = None, theme: str | None = None, jobs: int = 1) -> Summary:
    """Run all seeds."""
    seeds = list(seeds)
    if jobs == 1:
        return _chunk((seeds, kind, theme))
    size = max(1, min(50, len(seeds) // jobs))
    parts = [(seeds[place : place + size], kind, theme) for place in range(0, len(seeds), size)]
    total = Summary()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for part in pool.imap(_chunk, parts):
            total.histories += part.histories
            total.claims += part.claims
            total.virtual += part.virtual
            total.failures += part.failures
    return total
