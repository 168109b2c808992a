"""What the jobs of one transaction share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

__all__ = ["Session"]

T = TypeVar("T")
CountKey = tuple[int, int, str]


class Session:
    """The open transaction as jobs see it.

    Attributes:
        connection: For statements.
        woken: (namespace, topic) pairs that have something new for readers once this is committed.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self.path = path
        self.woken: set[tuple[str, str]] = set()
        self._memo: dict[Hashable, Any] = {}
        # Sums are written once a transaction and not once a job: (agent, minute, name) -> what is added.
        self._counts: dict[CountKey, float] = {}
        self._job_counts: dict[CountKey, float] = {}

    def begin(self) -> None:
        """Forget what an earlier transaction knew: other processes may have written since."""
        self._memo.clear()
        self._counts.clear()
        self._job_counts.clear()
        self.woken.clear()

    def keep(self) -> None:
        """Take a job as done."""
        for key, value in self._job_counts.items():
            self._counts[key] = self._counts.get(key, 0.0) + value
        self._job_counts.clear()

    def undo(self) -> None:
        """Take a job as not done; its statements have been rolled back."""
        self._memo.clear()
        self._job_counts.clear()

    def flush(self) -> None:
        """Write what was kept for the end of the transaction."""
        if self._counts:
            self.connection.executemany(
                "INSERT INTO counts (agent, minute, name, value) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET value = value + excluded.value",
                [(*key, value) for key, value in self._counts.items()],
            )
            self._counts.clear()

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what ``find`` returned for ``key`` in this transaction; None is asked for again."""
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = find()
        return cast("T", found)

    def forget(self, key: Hashable) -> None:
        """Have ``key`` looked up again."""
        self._memo.pop(key, None)

    def space(self, name: str) -> int:
        """Return the number of a namespace, and make it on first use."""
        row = self.connection.execute("SELECT id FROM spaces WHERE name = ?", (name,)).fetchone()
        if row is None:
            row = self.connection.execute("INSERT INTO spaces (name) VALUES (?) RETURNING id", (name,)).fetchone()
        return int(row[0])

    def add_count(self, key: CountKey, value: float) -> None:
        """Add to a sum at the end of the transaction."""
        self._job_counts[key] = self._job_counts.get(key, 0.0) + value

    def unwritten_counts(self) -> dict[CountKey, float]:
        """Return what is still to be added to the sums."""
        sums = dict(self._counts)
        for key, value in self._job_counts.items():
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def drop_counts(self) -> None:
        """Forget what is still to be added."""
        self._counts.clear()
        self._job_counts.clear()
