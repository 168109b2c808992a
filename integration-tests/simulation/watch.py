"""Tables and store that tell the oracle what is written, as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omnidaemon.model.run import Group, Outcome
from omnidaemon.ports.ledger import KvRow, OutboxRow, RunRow
from omnidaemon.ports.store import Put
from omnidaemon_memory import MemoryStore, MemoryTables

if TYPE_CHECKING:
    from simulation.oracle import Oracle

__all__ = ["WatchedStore", "WatchedTables"]


class WatchedTables(MemoryTables):
    """Memory tables; the oracle sees each row before and after."""

    oracle: Oracle

    def live(self, group: Group) -> list[RunRow]:
        """Return the runs of a group that are not final."""
        return self._runs.live(group)

    def put_run(self, row: RunRow) -> None:
        """Write a run."""
        key = (row.group.topic, row.group.agent, row.event_id)
        self.oracle.transition(self._runs.get(key), row, self._now)
        super().put_run(row)

    def drop_run(self, row: RunRow) -> None:
        """Remove a run."""
        self.oracle.dropped(row)
        super().drop_run(row)

    def put_outbox(self, row: OutboxRow) -> bool:
        """Insert an outbox row."""
        inserted = super().put_outbox(row)
        self.oracle.planned(row, inserted=inserted)
        return inserted

    def put_kv(self, ns: str, row: KvRow) -> None:
        """Write a value."""
        super().put_kv(ns, row)
        if ns == "control" and row.key.startswith("pause:"):
            self.oracle.flag(row.key, up=True)

    def drop_kv(self, ns: str, key: str) -> None:
        """Remove a value."""
        super().drop_kv(ns, key)
        if ns == "control" and key.startswith("pause:"):
            self.oracle.flag(key, up=False)


class WatchedStore(MemoryStore):
    """A memory store over watched tables; the oracle sees what became of each settle."""

    data: WatchedTables

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Close attempts."""
        rows = [
            self.data._runs.get((outcome.group.topic, outcome.group.agent, outcome.event_id)) for outcome in outcomes
        ]
        answers = await super().settle(outcomes)
        for outcome, row, ok in zip(outcomes, rows, answers, strict=True):
            if ok and row is not None and row.spent != outcome.token:
                self.data.oracle.accepted(outcome, row)
        return answers

    async def put(self, ns: str, items: Sequence[Put]) -> list[bool]:
        """Write small values."""
        return await super().put(ns, items)
