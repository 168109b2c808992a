"""What publishing answers: many at once, order, limits, two loops (P6, P8)."""

import asyncio

import pytest

from omnidaemon import (
    BackendUnavailable,
    Context,
    EventEnvelope,
    EventHandle,
    InvalidContent,
    InvalidEvent,
    InvalidName,
    NotAttempted,
    OmniDaemonSDK,
    PayloadBase,
    PayloadTooLarge,
    TooManyHops,
    UnsupportedCapability,
)
from omnidaemon.ports.event_bus import BusCapabilities
from omnidaemon_memory import MemoryEventBus, MemoryStore


async def bodies(sdk, topic):
    return [entry["data"] for entry in reversed(await sdk.inspect_topic(topic, 100))]


def test_too_large_is_refused_before_anything_is_sent(make_sdk, run):
    sdk = make_sdk(max_event_bytes=2000)

    async def main():
        async with sdk:
            await sdk.publish("t", "x" * 1500)
            for content, fields in (("x" * 2000, {}), ("x", {"headers": {"h": "x" * 2000}})):
                with pytest.raises(
                    PayloadTooLarge, match=r"for 't' has \d+ bytes and max_event_bytes is 2000; keep large"
                ):
                    await sdk.publish("t", content, **fields)
            fine, large = await sdk.publish_many([("t", 1), ("t", "x" * 2000)])
            assert isinstance(fine, EventHandle)
            assert isinstance(large, PayloadTooLarge)
            assert len(await bodies(sdk, "t")) == 2

    run(main())


def test_publish_many_has_an_outcome_for_each(sdk, run):
    async def main():
        async with sdk:
            outcomes = await sdk.publish_many(
                item
                for item in (
                    ("t", 1),
                    ("t", float("nan")),
                    ("bad topic", 1),
                    EventEnvelope(id="e", topic="u", payload=PayloadBase(content=2)),
                    ("t", 3, {"key": "k", "tenant_id": "x"}),
                    ("t",),
                    "nonsense",
                    None,
                )
            )
            kinds = [type(outcome) for outcome in outcomes]
            assert kinds[:5] == [EventHandle, InvalidContent, InvalidName, EventHandle, EventHandle]
            assert all(issubclass(kind, InvalidEvent) for kind in kinds[5:])
            assert [body["payload"]["content"] for body in await bodies(sdk, "t")] == [1, 3]
            assert [body["id"] for body in await bodies(sdk, "u")] == ["e"]
            assert await sdk.publish_many([]) == []

    run(main())


def test_after_a_failed_event_later_ones_of_its_key_are_not_attempted(sdk, run):
    async def main():
        async with sdk:
            outcomes = await sdk.publish_many(
                [
                    ("t", 1, {"key": "a"}),
                    ("t", float("nan"), {"key": "a"}),
                    ("t", 3, {"key": "a"}),
                    ("t", 4, {"key": "b"}),
                    ("u", 5, {"key": "a"}),
                    EventEnvelope(topic="t", payload=PayloadBase(content=6), key="a"),
                    ("t", 7),
                ]
            )
            kinds = [type(outcome) for outcome in outcomes]
            assert kinds == [
                EventHandle,
                InvalidContent,
                NotAttempted,
                EventHandle,
                EventHandle,
                NotAttempted,
                EventHandle,
            ]
            assert "key 'a'" in str(outcomes[2])

    run(main())


def test_a_store_that_is_down_hides_no_outcome_of_the_bus(bus, run):
    class Down(MemoryStore):
        async def defer(self, rows):
            raise BackendUnavailable(f"the store is down, {len(rows)} events were not kept")

    sdk = OmniDaemonSDK(event_bus=bus, store=Down())

    async def main():
        async with sdk:
            late, now = await sdk.publish_many([("t", 1, {"delay": 5}), ("t", 2)])
            assert isinstance(late, BackendUnavailable)
            assert isinstance(now, EventHandle)
            with pytest.raises(BackendUnavailable, match="1 events were not kept"):
                await sdk.publish("t", 1, delay=5)

    run(main())


def test_a_key_on_a_bus_without_order_is_refused_with_those_that_can(run):
    class Unordered(MemoryEventBus):
        capabilities = BusCapabilities(name="plain", durability="process", scope="process")

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.capabilities = type(self).capabilities

    sdk = OmniDaemonSDK(event_bus=Unordered(), store=MemoryStore())

    async def main():
        async with sdk:
            with pytest.raises(UnsupportedCapability, match=r"key='k' .* 'plain' does not; these do: memory, sqlite"):
                await sdk.publish("t", 1, key="k")
            (outcome,) = await sdk.publish_many([("t", 1, {"key": "k"})])
            assert isinstance(outcome, UnsupportedCapability)
            await sdk.publish("t", 1, session_id="s")
            assert len(await bodies(sdk, "t")) == 1

    run(main())


def test_hops_are_counted_and_limited(make_sdk, serve, run, eventually):
    sdk = make_sdk(max_hops=3)
    seen = []

    @sdk.agent("t")
    async def again(event: EventEnvelope, ctx: Context):
        seen.append(event.hops)
        await ctx.publish("t", event.content)

    async def main():
        async with serve(sdk):
            first = await sdk.publish("t", 1)
            await first.result(timeout=1)
            dead = await eventually(sdk.dead_letters)
            assert dead[0]["last_error"]["type"] == "TooManyHops"
            assert "max_hops is 3: agents seem to call each other in a circle" in dead[0]["last_error"]["message"]
            with pytest.raises(TooManyHops, match="has 4 hops and max_hops is 3"):
                await sdk.publish("t", 1, hops=4)
        assert seen == [0, 1, 2, 3]

    run(main())


def test_publishing_connects_lazily_and_starts_no_worker(sdk, run):
    @sdk.agent("t")
    async def work():
        raise AssertionError

    async def main():
        event = await sdk.publish("t", 1)
        assert not sdk.running
        assert await sdk.get_task(event.id) is None
        await sdk.shutdown()

    run(main())


def test_publishing_from_two_loops(sdk):
    first = asyncio.run(_publish(sdk))
    second = asyncio.run(_publish(sdk))
    assert first != second


async def _publish(sdk):
    event = await sdk.publish("t", 1)
    assert len(await sdk.inspect_topic("t")) >= 1
    await sdk.shutdown()
    return event.id
