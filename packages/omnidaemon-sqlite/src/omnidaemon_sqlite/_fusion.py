"""Bus and store in one file: the read is the claim, and settling acknowledges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omnidaemon.model.run import Ask, Delivery, DueWant, Grant, GrantKind, Group, Outcome, OutcomeKind
from omnidaemon.ports.ledger import Ledger
from omnidaemon.ports.store import Fusion
from omnidaemon_sqlite._events import Tag
from omnidaemon_sqlite._file import OpenFile
from omnidaemon_sqlite._session import Session
from omnidaemon_sqlite._tables import SQLiteTables

if TYPE_CHECKING:
    from omnidaemon_sqlite.bus import SQLiteEventBus

__all__ = ["SQLiteFusion", "acknowledge"]


@dataclass(slots=True)
class _Pairs:
    """What was taken, and when the next redelivery is due."""

    deliveries: list[tuple[Delivery, Grant]]
    next_at: float | None = None


class SQLiteFusion:
    """Takes events and their claims in one transaction."""

    def __init__(self, bus: SQLiteEventBus, file: OpenFile, tables: Callable[[Session], SQLiteTables]) -> None:
        self._bus = bus
        self._file = file
        self._tables = tables

    async def take(
        self, worker: str, call: str, want: Mapping[Group, DueWant], wait: float
    ) -> list[tuple[Delivery, Grant]]:
        """See :class:`omnidaemon.ports.store.Fusion`."""
        limits = {group: wish.limit for group, wish in want.items()}

        def look(session: Session) -> _Pairs | None:
            if self._tables(session).claimed_by(worker, f"{call}."):
                return None
            nothing = self._bus.events(session).look(limits)
            return None if nothing is None else _Pairs([], nothing.next_at)

        async def attempt() -> _Pairs:
            return await self._file.write(
                lambda session: self._take(session, worker, call, want), look=look, regret=self._regret
            )

        pairs = await self._bus.repeat(attempt, want, wait)
        return [] if pairs is None else pairs.deliveries

    def _take(self, session: Session, worker: str, call: str, want: Mapping[Group, DueWant]) -> _Pairs:
        bus, tables = self._bus.events(session), self._tables(session)
        reader = self._bus.reader
        earlier: dict[Group, dict[str, str]] = {}
        for row in tables.claimed_by(worker, f"{call}."):
            earlier.setdefault(row.group, {})[row.event_id] = row.token or ""
        asks: list[Ask] = []
        if earlier:  # the answer to this call was lost
            taken = [delivery for group in earlier for delivery in bus.held(group, list(earlier[group]), reader)]
            next_at = None
        else:
            found = bus.take({group: wish.limit for group, wish in want.items()}, reader, self._bus.lease)
            taken, next_at = found.deliveries, found.next_at
        for number, delivery in enumerate(taken):
            wish = want[delivery.group]
            token = earlier.get(delivery.group, {}).get(delivery.id, f"{call}.{number}")
            asks.append(
                Ask(
                    delivery.group,
                    delivery.id,
                    token,
                    wish.lease,
                    lane=delivery.key,
                    after=delivery.after,
                    takeover=wish.takeover,
                    position=delivery.position,
                )
            )
        return _Pairs(list(zip(taken, Ledger(tables).claim(worker, asks), strict=True)), next_at)

    def _regret(self, session: Session, pairs: _Pairs) -> None:
        """Give back what a cancelled caller will never see."""
        granted = [
            Outcome(delivery.group, delivery.id, grant.token, OutcomeKind.HANDBACK)
            for delivery, grant in pairs.deliveries
            if grant.kind is GrantKind.GRANTED
        ]
        Ledger(self._tables(session)).settle(granted)
        self._bus.events(session).give_back([delivery for delivery, _ in pairs.deliveries], self._bus.reader)


def acknowledge(session: Session, namespace: str, outcomes: Sequence[Outcome]) -> None:
    """Finish the deliveries of accepted outcomes; those of attempts handed back are available again."""
    finished: list[tuple[int, int]] = []
    for outcome in outcomes:
        delivery = outcome.delivery
        if delivery is None or not isinstance(delivery.tag, Tag) or delivery.tag.path != session.path:
            continue
        place = (delivery.tag.group, delivery.tag.ref)
        if outcome.kind is OutcomeKind.HANDBACK:
            session.connection.execute("UPDATE pending SET until = 0 WHERE grp = ? AND ref = ?", place)
            session.woken.add((namespace, delivery.group.topic))
        else:
            finished.append(place)
    session.connection.executemany("DELETE FROM pending WHERE grp = ? AND ref = ?", finished)


if TYPE_CHECKING:
    _: type[Fusion] = SQLiteFusion
