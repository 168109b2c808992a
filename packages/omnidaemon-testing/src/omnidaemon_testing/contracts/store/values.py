"""Rules S1, C1, C4 and R4: small values, flags, steps and progress."""

from __future__ import annotations

import asyncio

from omnidaemon.ports.store import Put
from omnidaemon_testing.content import corner_bytes
from omnidaemon_testing.contracts.store.base import RETRY, StoreBase, same_json

__all__ = ["ValueRules"]


class ValueRules(StoreBase):
    """Values by key, and what a run leaves on its way."""

    async def test_s1_values_are_kept_by_namespace_and_key(self) -> None:
        """A value is read as it was written, until it is overwritten or deleted.

        Trouble-shooting: namespaces do not see each other's keys.
        """
        store = await self.open()
        assert await store.get("config", ["a", "b"]) == [None, None]
        assert await store.put("config", [Put("a", corner_bytes()), Put("b", b"2")]) == [True, True]
        first, second = await (await self.open()).get("config", ["a", "b"])
        assert first is not None
        assert same_json(first.value, corner_bytes())
        assert second is not None
        assert (first.key, first.version, second.value) == ("a", 1, b"2")
        assert await store.get("other", ["a"]) == [None]
        await store.put("config", [Put("a", b"3"), Put("b", None)])
        first, second = await store.get("config", ["a", "b"])
        assert first is not None
        assert (first.value, first.version, second) == (b"3", 2, None)

    async def test_s1_a_write_can_expect_a_version(self) -> None:
        """``expect`` compares: 0 for "not there", a number for that version; of several writers one wins.

        Trouble-shooting: compare and write in one step.
        """
        store = await self.open()
        other = await self.open()
        assert await store.put("config", [Put("a", b"1", expect=1)]) == [False]
        wins = await asyncio.gather(
            *((store, other)[n % 2].put("config", [Put("a", b"%d" % n, expect=0)]) for n in range(10))
        )
        assert [win for (win,) in wins].count(True) == 1
        assert await store.put("config", [Put("a", b"1", expect=0), Put("b", b"1", expect=0)]) == [False, True]
        assert await store.put("config", [Put("a", b"2", expect=1)]) == [True]
        assert await store.put("config", [Put("a", b"3", expect=1)]) == [False]
        (value,) = await store.get("config", ["a"])
        assert value is not None
        assert (value.value, value.version) == (b"2", 2)
        assert await store.put("config", [Put("a", None, expect=1)]) == [False]
        assert await store.put("config", [Put("a", None, expect=2)]) == [True]

    async def test_s1_a_value_can_expire(self) -> None:
        """A value with a ``ttl`` is gone after it and comes back with the next write; one without stays.

        Trouble-shooting: compare with the store's clock when reading.
        """
        store = await self.open()
        await store.put("beats", [Put("w1", b"1", ttl=0.05), Put("w2", b"1"), Put("w3", b"1", ttl=60)])
        await self.sleep(0.1)
        got = await store.get("beats", ["w1", "w2", "w3"])
        assert [value is not None for value in got] == [False, True, True]
        assert {value.key for value in (await store.scan("beats")).items} == {"w2", "w3"}
        assert await store.put("beats", [Put("w1", b"2", ttl=60, expect=0)]) == [True]
        await store.put("beats", [Put("w3", b"1", ttl=0.02)])
        await store.put("beats", [Put("w3", b"2")])
        await self.sleep(0.05)
        assert all(value is not None for value in await store.get("beats", ["w1", "w3"]))

    async def test_s4_a_namespace_is_paged_by_key(self) -> None:
        """A scan gives every key once, sorted, over any number of pages, while others are written.

        Trouble-shooting: go on behind the last key, never by offset; hash order is not enough.
        """
        store = await self.open()
        names = [f"key {number:03} é" for number in range(30)]
        await store.put("config", [Put(name, b"1") for name in reversed(names)])
        await store.put("config2", [Put("stranger", b"1")])
        for limit in (1, 7, 30, 31):
            seen: list[str] = []
            cursor = None
            while True:
                page = await store.scan("config", cursor, limit)
                assert len(page.items) <= limit
                seen += [value.key for value in page.items]
                cursor = page.cursor
                if cursor is None:
                    break
                await store.put("config", [Put("a first", b"1"), Put(names[-1], b"2")])
            assert [name for name in seen if name != "a first"] == names, f"wrong with pages of {limit}"
            assert len(seen) == len(set(seen))

    async def test_c1_a_flag_is_kept(self) -> None:
        """A flag such as a pause is seen by every process, and outlives them all.

        Trouble-shooting: no expiry unless one is asked for; confirmed means durable.
        """
        store = await self.open()
        await store.put("flags", [Put("pause:orders.created:agent", b"true")])
        await store.close()
        other = await self.open()
        (flag,) = await other.get("flags", ["pause:orders.created:agent"])
        assert flag is not None
        assert flag.value == b"true"
        await other.put("flags", [Put("pause:orders.created:agent", None)])
        assert await other.get("flags", ["pause:orders.created:agent"]) == [None]

    async def test_c4_the_values_of_one_write_are_seen_together(self) -> None:
        """A reader sees all values of one ``put`` or none of them.

        Trouble-shooting: one transaction for the write, and one for reading several keys.
        """
        store = await self.open()
        reader = await self.open()
        keys = [f"flag{number}" for number in range(5)]
        await store.put("flags", [Put(key, b"0") for key in keys])
        rounds = 60

        async def write() -> None:
            for number in range(1, rounds + 1):
                await store.put("flags", [Put(key, b"%d" % number) for key in keys])
                await asyncio.sleep(0)

        async def read() -> None:
            while True:
                values = {value.value for value in await reader.get("flags", keys) if value is not None}
                assert len(values) == 1, f"one command's flags were seen in parts: {values}"
                if values == {b"%d" % rounds}:
                    return
                await asyncio.sleep(0)

        await asyncio.gather(write(), read())

    async def test_r4_progress_is_an_ordered_stream(self) -> None:
        """Chunks are numbered from 1 without gaps; a reader goes on behind the last one it has.

        Trouble-shooting: take the number in the step that writes the chunk.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        hold = self.hold(group, grant)
        topic, agent, _ = group
        for number in range(5):
            assert await store.append(hold, [b"[%d]" % number, corner_bytes()], 60)
        reader = await self.open()
        got = await reader.follow(topic, agent, "e1", 0, 100)
        assert [number for number, _ in got] == list(range(1, 11))
        assert [chunk for _, chunk in got[::2]] == [b"[%d]" % number for number in range(5)]
        assert all(same_json(chunk, corner_bytes()) for _, chunk in got[1::2])
        assert await reader.follow(topic, agent, "e1", 3, 2) == got[3:5]
        assert await reader.follow(topic, agent, "e1", 10, 100) == []
        assert await reader.follow(topic, agent, "unmet", 0, 100) == []
        await self.settled(store, group, grant, RETRY, attempt=2, delay=0)
        assert not await store.append(hold, [b"late"], 60)
        again = await self.due_one(store, group)
        assert await store.append(self.hold(group, again), [b'"next attempt"'], 60)
        assert await reader.follow(topic, agent, "e1", 10, 100) == [(11, b'"next attempt"')]

    async def test_r4_progress_is_kept_after_the_last_chunk(self) -> None:
        """A stream is readable for its time after the last chunk, also when the run has ended, then gone.

        Trouble-shooting: each chunk prolongs the whole stream.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        keep = self.timing.lease
        await store.append(self.hold(group, grant), [b"1"], keep)
        await self.sleep(keep / 2)
        begun = self.time()
        await store.append(self.hold(group, grant), [b"2"], keep)
        await self.settled(store, group, grant)
        await self.sleep(keep * 0.6)
        got = await store.follow(group.topic, group.agent, "e1", 0, 10)
        assert [number for number, _ in got] == [1, 2] or self.time() - begun > keep * 0.95

        async def gone() -> bool:
            return await store.follow(group.topic, group.agent, "e1", 0, 10) == []

        await self.until(gone, "the progress expired", within=keep + self.timing.slack)

    async def test_s1_steps_are_kept_with_their_run(self) -> None:
        """A step's value is found by the next attempt and by no other run; the last value of a key wins.

        Trouble-shooting: notes belong to (group, event), and go with the record.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        grant = await self.granted(store, first)
        hold = self.hold(first, grant)
        assert await store.note(hold, "fetch", b"1")
        assert await store.note(hold, "fetch", b'"again"')
        assert await store.note(hold, "key with : and é", corner_bytes())
        await self.granted(store, second)
        await self.settled(store, first, grant, RETRY, attempt=2, delay=0)
        await self.due(store, first)
        notes = await (await self.open()).notes(first, "e1")
        assert sorted(notes) == ["fetch", "key with : and é"]
        assert notes["fetch"] == b'"again"'
        assert same_json(notes["key with : and é"], corner_bytes())
        assert await store.notes(second, "e1") == {}
        assert await store.notes(first, "unmet") == {}
