"""``python -m simulation --histories 1000``: run histories, print the seeds that fail."""

from __future__ import annotations

import argparse
import os
import sys
import time

from simulation.history import run
from simulation.pool import run_many
from simulation.profile import KINDS, THEMES, draw


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--kind", choices=KINDS, help="the bus's manner of delivering again")
    parser.add_argument("--theme", choices=tuple(THEMES), help="what may go wrong")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--verbose", action="store_true", help="trace what happens")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        report = run(draw(arguments.seed, arguments.kind, arguments.theme), verbose=arguments.verbose)
        print(*report.lines, sep="\n")
        print(report.profile)
        print(*report.violations, sep="\n")
        return 1 if report.violations else 0
    began = time.perf_counter()
    seeds = range(arguments.first, arguments.first + arguments.histories)
    summary = run_many(seeds, arguments.kind, arguments.theme, arguments.jobs)
    for failure in summary.failures[:20]:
        print(failure)
    took = time.perf_counter() - began
    print(
        f"{summary.histories} histories, {summary.claims} claims, {summary.virtual / 3600:.1f} virtual hours in"
        f" {took:.1f} s ({summary.histories / took:.0f}/s): {len(summary.failures)} failed"
    )
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
