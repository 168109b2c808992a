"""Latency in logarithmic buckets: mergeable by addition, percentiles within 2 % (rule T2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["bucket", "percentile"]

# The middle of a bucket of ratio 1.04 is at most 1.97 % away from anything in it.
_RATIO = 1.04
_LOG = math.log(_RATIO)
_FLOOR = 1e-6


def bucket(seconds: float) -> int:
    """Return the number of the bucket that holds ``seconds``; below a microsecond it is 0."""
    return 0 if seconds <= _FLOOR else math.ceil(math.log(seconds / _FLOOR) / _LOG)


def percentile(buckets: Mapping[int, int], fraction: float) -> float | None:
    """Return the value in seconds below which ``fraction`` (0..1) of the counted values lie."""
    total = sum(buckets.values())
    if not total:
        return None
    wanted, seen = max(1, math.ceil(total * fraction)), 0
    for number in sorted(buckets):
        seen += buckets[number]
        if seen >= wanted:
            return float(_FLOOR * 2 * _RATIO**number / (1 + _RATIO))
    return None
