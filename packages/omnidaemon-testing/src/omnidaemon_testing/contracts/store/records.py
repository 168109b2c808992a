"""Rules S4, S8, T3 and T4: lists, content, and what is never confused."""

from __future__ import annotations

from omnidaemon.model.run import Group, Record, TaskState
from omnidaemon.ports.store import Query, Store
from omnidaemon_testing.content import CORNERS, corner_bytes, event_bytes
from omnidaemon_testing.contracts.store.base import RETRY, StoreBase, event_ids, same_json

__all__ = ["RecordRules"]


class RecordRules(StoreBase):
    """What is listed, and how it comes back."""

    async def many(self, store: Store, group: Group, count: int) -> list[str]:
        """Finish many runs and return their ids."""
        names = [f"e{number:03}" for number in range(count)]
        for name in names:
            await self.settled(store, group, await self.granted(store, group, name), result=b"1")
        return names

    async def pages(self, store: Store, query: Query, limit: int) -> list[list[Record]]:
        """Return all pages of a list."""
        pages: list[list[Record]] = []
        cursor = None
        while True:
            page = await store.records(query, cursor, limit)
            assert len(page.items) <= limit, "a page holds at most its limit"
            pages.append(page.items)
            cursor = page.cursor
            if cursor is None:
                return pages
            assert len(pages) < 1000, "the pages do not end"

    async def test_s4_pages_hold_everything_once_newest_first(self) -> None:
        """Paged by any limit, a list gives each record once, by last update descending.

        Trouble-shooting: the cursor is the last key of the page, and ties need a second key.
        """
        store, group = await self.open_with()
        names = await self.many(store, group, 25)
        for limit in (1, 7, 24, 25, 26, 100):
            records = [record for page in await self.pages(store, Query(), limit) for record in page]
            assert sorted(event_ids(records)) == names, f"wrong with pages of {limit}"
            times = [record.updated for record in records]
            assert times == sorted(times, reverse=True)
        assert (await store.records(Query(agent="nobody"))).items == []

    async def test_s4_pages_stay_right_while_written_to(self) -> None:
        """While records are added, changed and removed, every untouched one is listed exactly once.

        Trouble-shooting: page by key, never by offset.
        """
        store, group = await self.open_with()
        names = await self.many(store, group, 20)
        seen: list[str] = []
        cursor, number = None, 0
        while True:
            page = await store.records(Query(topic=group.topic, agent=group.agent), cursor, 4)
            seen += event_ids(page.items)
            cursor = page.cursor
            if cursor is None:
                break
            number += 1
            await self.granted(store, group, f"new{number}")
            if number == 1:
                assert await store.remove(Query(event_ids=[seen[0], names[0]])) == 2
        untouched = [name for name in names if name not in (seen[0], names[0])]
        assert [name for name in seen if name in untouched] == list(reversed(untouched))
        assert len(seen) == len(set(seen)), "a record was listed twice"

    async def test_s4_queries_select(self) -> None:
        """Every field of a query selects, alone and together; ``until`` is exclusive.

        Trouble-shooting: None means any; an empty list means none.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        await self.settled(store, first, await self.granted(store, first, "old"), tenant="acme")
        await self.sleep(0.03)
        middle = await store.now()
        await self.sleep(0.03)
        await self.settled(store, second, await self.granted(store, second, "old"))
        await self.settled(store, first, await self.granted(store, first, "retry"), RETRY, attempt=2, delay=60)
        await self.dead(store, first, "dead", tenant="acme")
        expected: list[tuple[Query, set[tuple[str, str]]]] = [
            (Query(agent="first"), {("first", "old"), ("first", "retry"), ("first", "dead")}),
            (Query(topic="other"), set()),
            (Query(event_ids=["old"]), {("first", "old"), ("second", "old")}),
            (Query(event_ids=[]), set()),
            (Query(states=[TaskState.SUBMITTED]), {("first", "retry")}),
            (
                Query(states=[TaskState.COMPLETED, TaskState.FAILED], agent="first"),
                {("first", "old"), ("first", "dead")},
            ),
            (Query(dead=True), {("first", "dead")}),
            (Query(dead=False, agent="first"), {("first", "old"), ("first", "retry")}),
            (Query(since=middle), {("second", "old"), ("first", "retry"), ("first", "dead")}),
            (Query(until=middle), {("first", "old")}),
            (Query(since=middle, agent="first", dead=False), {("first", "retry")}),
        ]
        for query, wanted in expected:
            got = (await store.records(query)).items
            assert {(record.group.agent, record.event_id) for record in got} == wanted, query
            assert len(got) == len(wanted)

    async def test_t4_the_tenant_reaches_every_query(self) -> None:
        """Records can be asked for by tenant, in every state, and removed by it.

        Trouble-shooting: the tenant comes with the ask, the adoption or the outcome.
        """
        store, group = await self.open_with()
        await self.granted(store, group, "claimed", tenant="acme")
        await self.adopted(store, group, "adopted", tenant="acme")
        await self.settled(store, group, await self.granted(store, group, "settled"), tenant="acme")
        await self.settled(store, group, await self.granted(store, group, "kept", tenant="acme"))
        await self.settled(store, group, await self.granted(store, group, "other", tenant="acme2"))
        await self.settled(store, group, await self.granted(store, group, "none"))
        names = event_ids((await store.records(Query(tenant="acme"))).items)
        assert sorted(names) == ["adopted", "claimed", "kept", "settled"]
        assert await store.remove(Query(tenant="acme")) == 2
        assert sorted(event_ids((await store.records(Query())).items)) == ["adopted", "claimed", "none", "other"]

    async def test_s8_any_json_comes_back_unchanged(self) -> None:
        """Results, events, steps, answers and values come back the same: numbers, text and order of keys.

        Trouble-shooting: keep JSON as bytes; jsonb, BSON and Lua's cjson all change something.
        """
        store, group = await self.open_with()
        for number, (name, value) in enumerate(CORNERS.items()):
            event_id = f"e{number}"
            body = event_bytes(event_id, self.topic, value)
            content = corner_bytes() if name == "order" else body
            grant = await self.granted(store, group, event_id)
            assert await store.note(self.hold(group, grant), name, content)
            await self.settled(store, group, grant, result=content, body=body)
            record = await self.must_have(store, group, event_id)
            assert same_json(record.result, content), f"the result with {name} was changed"
            assert same_json(record.body, body), f"the event with {name} was changed"
            assert same_json((await store.notes(group, event_id))[name], content), f"the step with {name} was changed"

    async def test_d9_bytes_that_are_no_json_come_back_unchanged(self) -> None:
        """The raw bytes of what could not be decoded are kept as they are, in inbox and record.

        Trouble-shooting: text columns refuse or mend what is not UTF-8.
        """
        store, group = await self.open_with()
        for number, raw in enumerate([b"\xff\xfe\x00\x80", b"", b"not json", bytes(range(256)), b'{"id": 7}']):
            name = f"e{number}"
            await self.adopted(store, group, name, body=raw)
            grant = await self.due_one(store, group)
            assert grant.body == raw
            await self.settled(store, group, grant, state=TaskState.FAILED, dead="undecodable", body=None)
            assert (await self.must_have(store, group, name)).body == raw

    async def test_t3_ids_are_never_confused(self) -> None:
        """Any event id, token, tenant, lane or key of up to 200 characters is told from any other.

        Trouble-shooting: never join names with a separator that they can hold.
        """
        store, groups = await self.open_with("a", "a.b")
        names = [
            "e",
            "e:a",
            "e|a",
            "E",
            "e ",
            "é",
            "e\u0301",
            "🦊",
            "a.b",
            "*",
            "%",
            "e_",
            "e\\",
            '"',
            "'",
            "{e}",
            "x" * 200,
        ]
        for group in groups:
            for name in names:
                grant = await self.granted(store, group, name, token=f"{group.agent}/{name}", lane=f"k:{name}")
                result = event_bytes("r", self.topic, f"{group.agent} {name}")
                await self.settled(store, group, grant, result=result, tenant=name, body=self.body(name))
        for group in groups:
            for name in names:
                record = await self.must_have(store, group, name)
                assert record.group == group
                assert same_json(record.result, event_bytes("r", self.topic, f"{group.agent} {name}"))
                tenants = (await store.records(Query(tenant=name, agent=group.agent))).items
                assert event_ids(tenants) == [name]
