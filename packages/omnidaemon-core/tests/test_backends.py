"""What a lost, late or refusing backend means to an SDK (design L2)."""

import threading

import pytest

from omnidaemon import (
    AccessDenied,
    AgentConfig,
    BackendUnavailable,
    Closed,
    Context,
    OmniDaemonSDK,
)
from omnidaemon_memory import MemoryEventBus, MemoryStore


async def echo(message):
    return message["content"]


def test_the_ports_are_had_where_they_are_connected(sdk, run):
    with pytest.raises(Closed, match="use `async with sdk:`"):
        _ = sdk.store

    async def main():
        with pytest.raises(Closed):
            _ = sdk.event_bus
        async with sdk:
            assert isinstance(sdk.store, MemoryStore)
            assert isinstance(sdk.event_bus, MemoryEventBus)
            await sdk.store.ping()
            await sdk.event_bus.ping()
        with pytest.raises(Closed):
            _ = sdk.store

    run(main())


def test_two_sdks_of_one_process_share_work_by_namespace(serve, run):
    async def who(ctx: Context):
        return ctx.agent

    one = OmniDaemonSDK("memory", "memory", namespace="shared")
    two = OmniDaemonSDK("memory", "memory", namespace="shared")
    apart = OmniDaemonSDK("memory", "memory", namespace="shared2")
    for sdk in (one, two):
        sdk.add_agent(AgentConfig(topic="t", callback=who))

    async def main():
        async with serve(one, two), apart:
            events = await apart.publish_many([("t", 0)]) + await one.publish_many([("t", n) for n in range(20)])
            for event in events[1:]:
                assert await event.result(timeout=1) == "who"
                assert (await two.get_task(event.id))["state"] == "completed"
            assert await apart.get_task(events[0].id) is None
            health = await one.health()
            assert len(health["workers"]) == 2
            assert len({worker["worker"] for worker in health["workers"]}) == 2
            assert await apart.list_agents() == {}
        assert (await one.metrics())["t"]["who"]["tasks_processed"] == 20

    run(main())


class Refusing(MemoryEventBus):
    tries = 0

    async def open(self):
        Refusing.tries += 1
        raise AccessDenied("redis://example refuses the user name or password")


def test_wrong_credentials_are_an_error_at_once(store, run):
    sdk = OmniDaemonSDK(event_bus=Refusing(), store=store, connect_timeout=60)

    async def main():
        for call in (sdk.start, lambda: sdk.publish("t", 1), sdk.connections.get):
            Refusing.tries = 0
            with pytest.raises(AccessDenied, match="refuses the user name or password"):
                await call()
            assert Refusing.tries == 1
        health = await sdk.health()
        assert (health["status"], health["event_bus_connected"], health["storage_healthy"]) == ("down", False, True)
        assert "refuses" in health["error"]

    run(main())


class Late(MemoryStore):
    tries = 0

    async def open(self):
        Late.tries += 1
        if Late.tries < 3:
            raise BackendUnavailable("not yet")
        await super().open()


def test_a_server_that_comes_up_in_time_is_waited_for(bus, serve, run):
    sdk = OmniDaemonSDK(event_bus=bus, store=Late(), connect_timeout=5)
    sdk.agent("t")(echo)

    async def main():
        async with serve(sdk):
            assert Late.tries == 3
            assert await (await sdk.publish("t", 1)).result(timeout=1) == 1

    run(main())


class Lost(MemoryStore):
    async def open(self):
        raise BackendUnavailable("cannot reach redis://example: refused")


def test_an_unreachable_server_is_one_clear_error(bus, run):
    sdk = OmniDaemonSDK(event_bus=bus, store=Lost(), connect_timeout=0.05)
    sdk.add_agent(AgentConfig(topic="t", callback=echo))

    async def main():
        for call in (sdk.start, sdk.connections.get, lambda: sdk.publish("t", 1), lambda: sdk.get_task("x")):
            with pytest.raises(BackendUnavailable, match="cannot reach redis://example: refused"):
                await call()
        with pytest.raises(BackendUnavailable):
            async with sdk:
                pass
        assert not sdk.running
        health = await sdk.health()
        assert health["status"] == "down"
        assert "cannot reach" in health["error"]
        await sdk.shutdown()

    run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "omnidaemon-io"]
