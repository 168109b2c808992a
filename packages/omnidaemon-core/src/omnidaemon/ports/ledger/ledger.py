"""The state machine of a run: claim, due, renew, adopt, settle (design §5, §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omnidaemon.model.run import (
    Adoption,
    Ask,
    Deferred,
    DueWant,
    Grant,
    GrantKind,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    Outgoing,
    TaskState,
)
from omnidaemon.ports.ledger.admin import LedgerAdmin
from omnidaemon.ports.ledger.lanes import enter, is_head, leave
from omnidaemon.ports.ledger.tables import OutboxRow, RunRow
from omnidaemon.ports.store import Due

__all__ = ["Ledger"]

# How long a relay, or the settling worker, has a row of the outbox to itself (M11).
OUTBOX_LEASE = 15.0


class Ledger(LedgerAdmin):
    """The rules over one open transaction of :class:`Tables`; the caller commits."""

    def claim(self, worker: str, asks: Sequence[Ask]) -> list[Grant]:
        """See :meth:`omnidaemon.ports.store.Store.claim`."""
        return [self._claim(worker, ask) for ask in asks]

    def _claim(self, worker: str, ask: Ask) -> Grant:
        tables, group, now = self.tables, ask.group, self.now
        if not self.alive(group):
            return Grant(GrantKind.GONE)
        row = self.live_or_final(group, ask.event_id)
        if row is None:
            if tables.mark(group, ask.event_id):
                return self._finished(group, ask.event_id)
            row = RunRow(group=group, event_id=ask.event_id, tenant=ask.tenant, created=now, updated=now)
        elif row.state.final:
            return self._ended(row)
        elif row.token == ask.token:
            return self._grant_of(row)
        return self._try(row, worker, ask)

    def _try(self, row: RunRow, worker: str, ask: Ask) -> Grant:
        refusal = self._held(row, ask)
        if refusal is not None:
            return Grant(refusal)
        if row.suspect:
            self.tables.put_run(row)
            return Grant(GrantKind.SUSPECT)
        if ask.lane is not None and not self._first_in_lane(row, ask.lane, ask):
            return Grant(GrantKind.BEHIND)
        self._start(row, worker, ask.token, ask.lease)
        return self._grant_of(row)

    def _held(self, row: RunRow, ask: Ask) -> GrantKind | None:
        """Return why a live run is not to be had; count the lost start if its claim is taken over."""
        if row.inbox:
            return GrantKind.HELD
        if row.token is not None:
            if row.lease_until > self.now or not ask.takeover:
                return GrantKind.BUSY
            row.lost += 1
            row.token = None
        return None

    def _first_in_lane(self, row: RunRow, lane: str, ask: Ask) -> bool:
        enter(self.tables, row, lane, ask.after, ask.position)
        first = is_head(self.tables, row)
        if not first:
            self.tables.put_run(row)
        return first

    def _ended(self, row: RunRow) -> Grant:
        if row.state is TaskState.CANCELED:
            return Grant(GrantKind.CANCELED)
        return self._finished(row.group, row.event_id)

    def _finished(self, group: Group, event_id: str) -> Grant:
        return Grant(GrantKind.FINISHED, unsent=bool(self.tables.unsent(group, event_id)))

    def _start(self, row: RunRow, worker: str, token: str, lease: float) -> None:
        row.token, row.worker, row.lease_until = token, worker, self.now + lease
        row.starts += 1
        if row.state is not TaskState.INPUT_REQUIRED:
            row.state = TaskState.WORKING
        row.updated = self.now
        self.tables.put_run(row)

    @staticmethod
    def _grant_of(row: RunRow) -> Grant:
        return Grant(
            GrantKind.GRANTED,
            generation=row.generation,
            attempt=row.attempt,
            lost=row.lost,
            data=row.data,
            state=row.state,
            body=row.body,
            event_id=row.event_id,
            token=row.token or "",
        )

    def due(self, worker: str, call: str, want: Mapping[Group, DueWant]) -> Due:
        """See :meth:`omnidaemon.ports.store.Store.due`."""
        tables, now = self.tables, self.now
        grants: dict[Group, list[Grant]] = {}
        suspects: set[Group] = set()
        next_at: float | None = None
        repeated = tables.claimed_by(worker, f"{call}.")
        for row in repeated:
            grants.setdefault(row.group, []).append(self._grant_of(row))
        number = len(repeated)
        # The time keeps a late repetition of the call from giving a token that a run has had before (S3).
        name = f"{call}.%d.{int(now * 1000):x}"
        for group, wish in want.items():
            if not self.alive(group):
                continue
            if not repeated and wish.limit > 0:
                for row in tables.ready(group, now, wish.limit, suspect=False, expired=wish.takeover):
                    if self._expire(row):
                        continue
                    self._start(row, worker, name % number, wish.lease)
                    grants.setdefault(group, []).append(self._grant_of(row))
                    number += 1
            waiting = tables.ready(group, now, 1, suspect=True, expired=wish.takeover)
            if waiting:
                suspects.add(group)
                if wish.alone and not number:
                    self._expire(waiting[0])
                    self._start(waiting[0], worker, name % number, wish.lease)
                    grants.setdefault(group, []).append(self._grant_of(waiting[0]))
                    number += 1
            upcoming = tables.next_ready(group)
            if upcoming is not None:
                next_at = upcoming if next_at is None else min(next_at, upcoming)
        return Due(grants, frozenset(suspects), None if next_at is None else max(0.0, next_at - now))

    def _expire(self, row: RunRow) -> bool:
        """Count a lost start; return whether that has just made the run a suspect."""
        if row.token is None:
            return False
        fresh_suspect = not row.suspect
        row.token, row.due = None, self.now
        row.lost += 1
        if fresh_suspect and row.suspect:
            self.tables.put_run(row)
            return True
        return False

    def renew(self, holds: Sequence[Hold]) -> list[bool]:
        """See :meth:`omnidaemon.ports.store.Store.renew`."""
        answers = []
        for hold in holds:
            row = self.owned(hold)
            if row is not None:
                row.lease_until = self.now + hold.lease
                self.tables.put_run(row)
            answers.append(row is not None)
        return answers

    def adopt(self, items: Sequence[Adoption]) -> list[bool]:
        """See :meth:`omnidaemon.ports.store.Store.adopt`."""
        return [self._adopt(item) for item in items]

    def _adopt(self, item: Adoption) -> bool:
        tables, group, now = self.tables, item.group, self.now
        if not self.current(group):
            return item.token is None
        row = self.live_or_final(group, item.event_id)
        if item.token is not None and (row is None or row.token != item.token):
            return False
        if row is None:
            if tables.mark(group, item.event_id):
                return True
            row = RunRow(group=group, event_id=item.event_id, tenant=item.tenant, created=now, updated=now)
        if row.state.final or row.inbox:
            return True
        if item.lane is not None:
            enter(tables, row, item.lane, item.after, item.position)
        row.inbox, row.body = True, item.body
        if row.token is None:
            row.due, row.blocked = now + item.delay, not is_head(tables, row)
        tables.put_run(row)
        return True

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See :meth:`omnidaemon.ports.store.Store.settle`."""
        return [self._settle(outcome) for outcome in outcomes]

    def _settle(self, outcome: Outcome) -> bool:
        group, now = outcome.group, self.now
        row = self.live_or_final(group, outcome.event_id)
        if row is None or not self.current(group):
            return False
        if row.spent == outcome.token:
            return True
        if row.token != outcome.token or row.state.final:
            return False
        row.token, row.worker, row.spent, row.updated = None, None, outcome.token, now
        if outcome.kind is OutcomeKind.HANDBACK:
            self._hand_back(row)
        else:
            row.data = outcome.data
            if outcome.tenant is not None:
                row.tenant = outcome.tenant
            if outcome.body is not None:
                row.body = outcome.body
            self._close(row, outcome)
        for deferred in outcome.outbox:
            # Who settles sends at once what is due now; what is due later is anybody's.
            at_once = deferred.delay <= 0 and deferred.deliver_at is None
            self.put_deferred(deferred, group, outcome.event_id, OUTBOX_LEASE if at_once else 0.0)
        if outcome.counts:
            self.tables.add_counts(group.topic, group.agent, int(now // 60), outcome.counts)
        return True

    def _hand_back(self, row: RunRow) -> None:
        row.starts -= 1
        if row.state is not TaskState.INPUT_REQUIRED:
            row.state = TaskState.SUBMITTED
        if row.inbox:
            row.due = self.now
        self.tables.put_run(row)

    def _close(self, row: RunRow, outcome: Outcome) -> None:
        tables, now = self.tables, self.now
        if outcome.kind is OutcomeKind.RETRY:
            row.state, row.attempt = TaskState.SUBMITTED, outcome.attempt
            row.inbox, row.due = True, now + (outcome.delay or 0.0)
            tables.put_run(row)
        elif outcome.kind is OutcomeKind.WAIT:
            row.state, row.question, row.inbox = TaskState.INPUT_REQUIRED, outcome.question, True
            row.due = None if outcome.delay is None else now + outcome.delay
            tables.put_run(row)
            leave(tables, row, now)
        else:
            row.state, row.result, row.dead = outcome.state, outcome.result, outcome.dead
            row.inbox, row.due, row.question = False, None, None
            if outcome.dead is None:
                row.expires = now + outcome.ttl
            tables.put_mark(row.group, row.event_id, now, now + outcome.mark_ttl)
            tables.put_run(row)
            leave(tables, row, now)

    def defer(self, rows: Sequence[Deferred]) -> list[bool]:
        """See :meth:`omnidaemon.ports.store.Store.defer`."""
        return [self.put_deferred(row, None, "", 0.0) for row in rows]

    def put_deferred(self, row: Deferred, source: Group | None, event_id: str, lease: float) -> bool:
        """Insert an outbox row, leased to whoever writes it for ``lease`` seconds."""
        due = self.now + row.delay if row.deliver_at is None else row.deliver_at
        leased = self.now + lease if lease else 0.0
        return self.tables.put_outbox(OutboxRow(row.event, due, leased, source, event_id))

    def outbox(self, limit: int, lease: float) -> tuple[list[Outgoing], float | None]:
        """See :meth:`omnidaemon.ports.store.Store.outbox`."""
        rows = self.tables.lease_outbox(self.now, self.now + lease, limit)
        following = self.tables.next_outbox()
        return [row.event for row in rows], None if following is None else max(0.0, following - self.now)

    def sent(self, rows: Sequence[Outgoing]) -> None:
        """See :meth:`omnidaemon.ports.store.Store.sent`."""
        self.tables.drop_outbox([row.id for row in rows])
