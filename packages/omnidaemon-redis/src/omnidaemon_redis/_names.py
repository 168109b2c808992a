"""Names of keys, and text as it is kept.

All keys of a topic begin with ``{namespace:topic}``, so that they lie in one slot of a cluster; those of
a whole namespace begin with ``{namespace}``. Names hold neither colons nor braces, so no two meet.
"""

from __future__ import annotations

import functools

from omnidaemon.model.run import Group

__all__ = ["group_name", "home", "optional", "raw", "slot", "text"]


@functools.lru_cache(maxsize=4096)
def slot(namespace: str, topic: str) -> bytes:
    """Return what the keys of a topic begin with."""
    return f"{{{namespace}:{topic}}}".encode()


def home(namespace: str) -> bytes:
    """Return what the keys of a whole namespace begin with."""
    return f"{{{namespace}}}".encode()


@functools.lru_cache(maxsize=4096)
def group_name(group: Group) -> bytes:
    """Return the name of a consumer group: it carries the epoch (M8)."""
    return f"{group.agent}:{group.epoch}".encode()


def raw(value: str) -> bytes:
    """Return text as it is kept: never with a NUL, which separates the fields of records."""
    data = value.encode("utf-8", "surrogatepass")
    return data.replace(b"\0", b"\xc0\x80") if b"\0" in data else data


def text(data: bytes) -> str:
    """Return kept text."""
    if b"\xc0\x80" in data:
        data = data.replace(b"\xc0\x80", b"\0")
    return data.decode("utf-8", "surrogatepass")


def optional(value: str | None) -> bytes:
    """Return text or its absence, told apart from empty text."""
    return b"" if value is None else b"=" + raw(value)
