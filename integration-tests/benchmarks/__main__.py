"""``python -m benchmarks``: one interleaved run of everything, and a table of what it gave."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bench import Bench, BenchError
from benchmarks.child import Sample
from benchmarks.measurements import ALL, Measurement, installed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of everything (7)")
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds of what takes half a minute each (3)")
    parser.add_argument("--events", type=int, default=20_000, help="events of a drain (20000)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="names that begin so; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write samples and figures there")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.events < 500:
        parser.error("at least one round of 500 events")
    return arguments


def _chosen(prefixes: Sequence[str]) -> list[Measurement]:
    chosen = [one for one in ALL if not prefixes or any(one.name.startswith(prefix) for prefix in prefixes)]
    if not chosen:
        sys.exit(f"--only {' '.join(prefixes)}: no such name; known: {', '.join(one.name for one in ALL)}")
    return chosen


def _turned(measurements: list[Measurement], turn: int) -> list[Measurement]:
    """Another one first each round, so that nobody always runs after the same neighbour's noise; then backwards."""
    start = turn * 5 % len(measurements)
    order = measurements[start:] + measurements[:start]
    return order if turn % 2 == 0 else order[::-1]


def _round(bench: Bench, measurements: Sequence[Measurement], failures: list[str]) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for one in measurements:
        bench.reset()
        try:
            samples[one.name] = one.run(bench)
        except Exception as error:  # noqa: BLE001 - one contestant's failure must not lose the others' figures
            failures.append(f"{one.name}: {error}")
            print(f"  {one.name} FAILED: {str(error).splitlines()[-1][:300]}", file=sys.stderr, flush=True)
    return samples


def main() -> int:
    """Run, print, write; 0 unless something failed (or, with --strict, missed)."""
    arguments = _arguments()
    chosen = wanted = _chosen(arguments.only)
    if arguments.list:
        print("\n".join(one.name for one in chosen))
        return 0
    why_not = installed()
    if why_not is not None:
        print(f"without OmniDaemon: {why_not}", file=sys.stderr)
        chosen = [one for one in chosen if not one.ours]
    failures: list[str] = []
    rounds: list[dict[str, Sample]] = []
    with Bench(arguments.events) as bench:
        info: Any = bench.client.info("server")
        setting = report.setting(info["redis_version"], arguments.events)
        for turn in range(arguments.rounds):
            began = time.monotonic()
            measurements = [one for one in chosen if not one.slow or turn < arguments.slow_rounds]
            rounds.append(_round(bench, _turned(measurements, turn), failures))
            took = time.monotonic() - began
            print(f"round {turn + 1} of {arguments.rounds}: {took:.0f} s", file=sys.stderr, flush=True)
    print("\n".join([*report.ratios(rounds, [one.name for one in wanted]), "", *report.absolutes(rounds)]))
    if arguments.json:
        report.write(arguments.json, report.document(rounds, failures, setting))
    missed = report.missed(rounds)
    print(f"\n{len(missed)} missed, {len(failures)} failed" + "".join(f"\n  missed: {title}" for title in missed))
    return 1 if failures or (arguments.strict and missed) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(str(error))
