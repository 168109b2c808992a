"""Finds what an adapter leaves behind when it is closed (L3)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from omnidaemon_testing.timing import ContractTiming

__all__ = ["Leftovers"]

_FDS = Path("/proc/self/fd")
# asyncio.to_thread keeps its threads until the loop ends: they are the loop's, not the adapter's.
_LOOP_THREADS = "asyncio_"


class Leftovers:
    """Remembers the tasks, threads and open files there are, and says later which are new."""

    def __init__(self, timing: ContractTiming) -> None:
        self._timing = timing
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())
        self._files = _files()

    def found(self) -> list[str]:
        """Return what is new."""
        tasks = [f"task {task.get_coro()}" for task in asyncio.all_tasks() - self._tasks if not task.done()]
        threads = [
            f"thread {thread.name}"
            for thread in set(threading.enumerate()) - self._threads
            if not thread.name.startswith(_LOOP_THREADS)
        ]
        files = [f"open file {name}" for name in _files() - self._files]
        return tasks + threads + files

    async def assert_none(self) -> None:
        """Assert that nothing new is left, soon."""
        limit = asyncio.get_running_loop().time() + self._timing.deadline / 2
        # What is left ends without anybody who could set an event.
        while (left := self.found()) and asyncio.get_running_loop().time() < limit:  # noqa: ASYNC110
            await asyncio.sleep(self._timing.poll)
        assert not left, f"left behind: {', '.join(left)}"


def _files() -> set[str]:
    """Return open sockets, pipes and files as the kernel names them; empty where it does not."""
    found: set[str] = set()
    try:
        descriptors = list(_FDS.iterdir())
    except OSError:
        return found
    for descriptor in descriptors:
        try:
            found.add(str(descriptor.readlink()))
        except OSError:
            continue  # closed meanwhile
    # Listing needs a descriptor of its own, and a loop's wake-up pipes come and go.
    return {name for name in found if not name.startswith(("/proc/", "anon_inode:"))}
