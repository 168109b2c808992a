"""Control flags: what a command leaves in the store for all workers."""

from __future__ import annotations

from omnidaemon.ports.store import Put, Store

__all__ = ["FLAGS", "SEEN", "VERSION", "WORKERS", "bump", "pause_key", "paused_agents", "seen_key"]

FLAGS = "control"
WORKERS = "workers"
# Notes of which agents had a worker; one expires after ``orphan_after``.
SEEN = "seen"
VERSION = "version"


def seen_key(topic: str, agent: str) -> str:
    """Return the name under which it is noted that an agent has a worker."""
    return f"{topic}:{agent}"


def pause_key(topic: str, agent: str) -> str:
    """Return the name of an agent's pause flag."""
    return f"pause:{topic}:{agent}"


async def bump(store: Store, *flags: Put) -> None:
    """Write flags together with a new version, so that workers see all of them or none (C4)."""
    now = await store.now()
    await store.put(FLAGS, [*flags, Put(VERSION, repr(now).encode())])


async def paused_agents(store: Store) -> set[str]:
    """Return the keys of all pause flags."""
    keys: set[str] = set()
    cursor = None
    while True:
        page = await store.scan(FLAGS, cursor)
        keys.update(item.key for item in page.items if item.key.startswith("pause:"))
        cursor = page.cursor
        if cursor is None:
            return keys
