"""How the tests of a store get their stores, runs and outcomes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import pytest

from omnidaemon.model.run import (
    Adoption,
    Ask,
    DueWant,
    Grant,
    GrantKind,
    Group,
    Hold,
    Outcome,
    OutcomeKind,
    Record,
    TaskState,
)
from omnidaemon.ports.store import Due, Query, Store
from omnidaemon_testing.content import event_bytes
from omnidaemon_testing.contracts.base import ContractBase
from omnidaemon_testing.contracts.store.fields import AskFields, OutcomeFields

__all__ = ["FINAL", "HANDBACK", "RETRY", "WAIT", "StoreBase", "event_ids", "same_json"]

FINAL, RETRY, WAIT, HANDBACK = OutcomeKind.FINAL, OutcomeKind.RETRY, OutcomeKind.WAIT, OutcomeKind.HANDBACK


def same_json(one: bytes | None, other: bytes | None) -> bool:
    """Return whether two JSON texts mean the same: types, signs, digits and the order of keys."""
    if one is None or other is None:
        return one is other
    # repr tells 1 from 1.0 and 0.0 from -0.0, and dictionaries keep their order.
    return repr(json.loads(one)) == repr(json.loads(other))


def event_ids(items: Sequence[Grant | Record]) -> list[str]:
    """Return the event ids of grants or records."""
    return [item.event_id for item in items]


class StoreBase(ContractBase):
    """Base of the store rules; see :class:`StoreContract` for what to override."""

    topic = "orders.created"
    _make_store: Callable[..., Store]
    _numbers: itertools.count[int]
    _first_store: bool

    @pytest.fixture
    def make_store(self) -> Callable[..., Store]:
        """Return a factory of unopened stores that share one server and one namespace."""
        name = type(self).__name__
        raise NotImplementedError(
            f"{name} must override the fixture make_store:\n\n"
            "    @pytest.fixture\n"
            "    def make_store(self, unique_prefix):\n"
            "        return lambda namespace=unique_prefix: YourStore(URL, namespace=namespace)\n"
        )

    @pytest.fixture(autouse=True)
    def _store_setup(self, _contract_setup: None, make_store: Callable[..., Store]) -> None:
        self.use_store(make_store)

    def use_store(self, make_store: Callable[..., Store]) -> None:
        """Take stores from this factory."""
        self._make_store, self._first_store = make_store, True
        self._numbers = itertools.count(1)

    # --- stores -------------------------------------------------------------------------------------

    def make(self, **settings: Any) -> Store:
        """Return an unopened store; skip if its factory does not take one of ``settings``."""
        if not settings:
            return self._make_store()
        try:
            return self._make_store(**settings)
        except TypeError as error:
            if "unexpected keyword" not in str(error) and "positional argument" not in str(error):
                raise
            self.not_tried(f"the factory of make_store takes no {', '.join(settings)}=")

    async def open(self, **settings: Any) -> Store:
        """Return an open store that is closed when the test ends."""
        store = self.make(**settings)
        if self._first_store:
            self._first_store = False
            self.facts["store"] = store.capabilities
        await store.open()
        self._closing.push_async_callback(store.close)
        return store

    async def open_with(self, *agents: str) -> tuple[Store, Any]:
        """Return an open store and the group of the agent, or the groups of several."""
        store = await self.open()
        groups = [(await store.enroll(self.topic, agent, b"{}"))[0].group for agent in agents or ("agent",)]
        return store, groups[0] if len(groups) == 1 else groups

    # --- claims --------------------------------------------------------------------------------------

    def token(self) -> str:
        """Return a token that was never used, as workers make them up."""
        return f"token-{next(self._numbers)}"

    def body(self, event_id: str = "e1") -> bytes:
        """Return an event's bytes."""
        return event_bytes(event_id, self.topic, {"of": event_id})

    async def claim(
        self, store: Store, group: Group, event_id: str = "e1", worker: str = "w1", **fields: Unpack[AskFields]
    ) -> Grant:
        """Ask for one run and return the answer."""
        fields.setdefault("token", self.token())
        fields.setdefault("lease", 60.0)
        answers = await store.claim(worker, [Ask(group=group, event_id=event_id, **fields)])
        assert len(answers) == 1, "claim must answer each ask"
        return answers[0]

    async def granted(
        self, store: Store, group: Group, event_id: str = "e1", worker: str = "w1", **fields: Unpack[AskFields]
    ) -> Grant:
        """Claim a run that must be granted; the answer names run and token."""
        grant = await self.claim(store, group, event_id, worker, **fields)
        assert grant.kind is GrantKind.GRANTED, f"the claim of {event_id} was answered {grant.kind}"
        assert grant.event_id == event_id
        assert grant.token, "a grant must name its token"
        return grant

    async def refused(
        self, store: Store, group: Group, kind: GrantKind, event_id: str = "e1", **fields: Unpack[AskFields]
    ) -> Grant:
        """Claim a run that must be answered with ``kind``."""
        answer = await self.claim(store, group, event_id, "other", **fields)
        assert answer.kind is kind, f"the claim of {event_id} was answered {answer.kind}, {kind} was to come"
        return answer

    async def due(
        self,
        store: Store,
        group: Group,
        limit: int = 10,
        *,
        worker: str = "w2",
        call: str | None = None,
        lease: float = 60.0,
        alone: bool = False,
        takeover: bool = True,
    ) -> list[Grant]:
        """Return what the inbox hands out for one group."""
        answer = await self.due_all(
            store, group, limit, worker=worker, call=call, lease=lease, alone=alone, takeover=takeover
        )
        assert set(answer.grants) <= {group}
        return answer.grants.get(group, [])

    async def due_all(
        self, store: Store, group: Group, limit: int = 10, *, worker: str = "w2", call: str | None = None, **want: Any
    ) -> Due:
        """Return the whole answer of ``due`` for one group."""
        want.setdefault("lease", 60.0)
        return await store.due(worker, call or f"call-{next(self._numbers)}", {group: DueWant(limit, **want)})

    async def due_one(self, store: Store, group: Group, **want: Any) -> Grant:
        """Return the one run that the inbox hands out now."""
        grants = await self.due(store, group, **want)
        assert len(grants) == 1, f"the inbox handed out {event_ids(grants)}, one run was due"
        return grants[0]

    async def until_due(self, store: Store, group: Group, within: float | None = None, **want: Any) -> list[Grant]:
        """Return what the inbox hands out as soon as there is something."""
        return await self.until(lambda: self.due(store, group, **want), f"something due for {group.agent}", within)

    # --- outcomes ------------------------------------------------------------------------------------

    async def settle(
        self, store: Store, group: Group, grant: Grant, kind: OutcomeKind = FINAL, **fields: Unpack[OutcomeFields]
    ) -> bool:
        """Settle one attempt and return whether it was accepted."""
        fields.setdefault("body", self.body(grant.event_id))
        outcome = Outcome(group=group, event_id=grant.event_id, token=grant.token, kind=kind, **fields)
        answers = await store.settle([outcome])
        assert len(answers) == 1, "settle must answer each outcome"
        return answers[0]

    async def settled(
        self, store: Store, group: Group, grant: Grant, kind: OutcomeKind = FINAL, **fields: Unpack[OutcomeFields]
    ) -> None:
        """Settle one attempt, which must be accepted."""
        assert await self.settle(store, group, grant, kind, **fields), f"the {kind} of {grant.event_id} was refused"

    async def adopted(self, store: Store, group: Group, event_id: str = "e1", **fields: Any) -> bool:
        """Have the inbox take an event over; return whether its delivery may be acknowledged."""
        fields.setdefault("body", self.body(event_id))
        answers = await store.adopt([Adoption(group, event_id, **fields)])
        assert len(answers) == 1, "adopt must answer each item"
        return answers[0]

    async def dead(self, store: Store, group: Group, event_id: str = "e1", **fields: Unpack[OutcomeFields]) -> Grant:
        """Make a dead letter and return the grant of its last attempt."""
        grant = await self.granted(store, group, event_id)
        letter: OutcomeFields = {"state": TaskState.FAILED, "dead": "max_attempts", "data": b'{"attempts":[1]}'}
        letter.update(fields)
        await self.settled(store, group, grant, **letter)
        return grant

    @staticmethod
    def hold(group: Group, grant: Grant, lease: float = 60.0) -> Hold:
        """Return a grant as its owner names it."""
        return Hold(group, grant.event_id, grant.token, lease)

    # --- looking -------------------------------------------------------------------------------------

    async def record(self, store: Store, group: Group, event_id: str = "e1") -> Record | None:
        """Return a run's record, None when there is none."""
        page = await store.records(Query(topic=group.topic, agent=group.agent, event_ids=[event_id]))
        assert len(page.items) <= 1, "an event has one record for each agent"
        return page.items[0] if page.items else None

    async def must_have(self, store: Store, group: Group, event_id: str = "e1") -> Record:
        """Return a run's record, which must be there."""
        record = await self.record(store, group, event_id)
        assert record is not None, f"there is no record of {event_id}"
        return record

    async def counts(self, store: Store, group: Group) -> dict[str, float]:
        """Return an agent's counts since ever."""
        rows = await store.metrics(group.topic, group.agent)
        return {name: value for row in rows for name, value in row.counts.items() if value}
