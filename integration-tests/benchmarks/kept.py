"""What Redis keeps per finished event, by kind of key.

`KINDS` is the whole knowledge of key names: the first row that matches counts; what no row matches is ``other`` and
counts as beyond. The kinds that the target allows are the retained event, its record, and that record's list entries.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from typing import Any

import redis

from benchmarks.child import Sample

KINDS: tuple[tuple[str, str, str, bool], ...] = (
    # kind, key pattern, Redis type (* = any), beyond what the target allows
    ("event", "{*}s", "stream", False),
    ("record", "{*}r:*", "string", False),
    ("record", "{*}B:*", "hash", False),  # a block: the records that were settled together
    ("list", "{*}i:*", "zset", False),
    ("list", "{*}j:*", "stream", False),  # the journal by which blocks are listed
    ("done", "{*}m:*", "hash", True),
    ("claim", "{*}[cwb]:*", "hash", True),
    ("counter", "{*}k:*", "hash", True),
    ("group", "{*}[ag]*", "hash", True),
)
_CHUNK = 1000


def _kind(key: str, kind_of_value: str) -> tuple[str, bool]:
    for kind, pattern, kind_of_redis, beyond in KINDS:
        if kind_of_redis in ("*", kind_of_value) and fnmatch.fnmatchcase(key, pattern):
            return kind, beyond
    return "other", True


def measure(client: redis.Redis, events: int) -> Sample:
    """MEMORY USAGE of every key, summed by kind, in bytes per event."""
    keys: list[bytes] = list(client.scan_iter(count=_CHUNK))
    by_kind: Counter[str] = Counter()
    beyond = 0
    others: set[str] = set()
    for first in range(0, len(keys), _CHUNK):
        chunk = keys[first : first + _CHUNK]
        with client.pipeline(transaction=False) as pipe:
            for key in chunk:
                pipe.type(key)
                pipe.memory_usage(key, samples=0)
            replies: list[Any] = pipe.execute()
        for key, kind_of_value, size in zip(chunk, replies[::2], replies[1::2], strict=True):
            kind, counts = _kind(key.decode(errors="replace"), kind_of_value.decode())
            by_kind[kind] += size or 0
            beyond += (size or 0) if counts else 0
            if kind == "other" and len(others) < 20:
                others.add(key.decode(errors="replace"))
    return {
        "kept_beyond": beyond / events,
        **{f"kept_{kind}": size / events for kind, size in sorted(by_kind.items())},
        "kept_other_keys": sorted(others),
    }
