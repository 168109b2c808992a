"""Whether work goes on, seen from any process (design T1)."""

import asyncio

import pytest

from omnidaemon import (
    AgentConfig,
    BackendUnavailable,
    NonRetryable,
    OmniDaemonSDK,
    RetryPolicy,
    TaskFailed,
)
from omnidaemon.ports.store import Put
from omnidaemon.runtime.flags import SEEN, seen_key
from omnidaemon_memory import MemoryEventBus, MemoryStore

ONCE = RetryPolicy(max_attempts=1)


HEALTH = {
    "runner_id",
    "status",
    "is_running",
    "runner_running",
    "has_active_consumers",
    "event_bus_connected",
    "event_bus_type",
    "storage_healthy",
    "storage_status",
    "subscribed_topics",
    "agents",
    "registered_agents_count",
    "active_consumers",
    "uptime_seconds",
    "agent_health",
    "healthy_agents_count",
    "unhealthy_agents_count",
}


async def echo(message):
    """Give back what came."""
    return message["content"]


async def picky(message):
    if message["content"] == "bad":
        raise NonRetryable("no")
    return message["content"]


def test_health_tells_what_is_so_from_any_process(make_sdk, serve, run):
    worker, outside = make_sdk(), make_sdk()
    worker.agent("t")(echo)

    async def main():
        async with outside:
            health = await outside.health()
            assert set(health) >= HEALTH
            assert (health["status"], health["is_running"], health["registered_agents_count"]) == ("ready", False, 0)
            assert health["uptime_seconds"] == 0
            async with serve(worker):
                health = await outside.health()
                assert set(health) >= HEALTH
                assert health["status"] == "running"
                assert health["is_running"] is health["runner_running"] is health["has_active_consumers"] is True
                assert health["event_bus_connected"] is health["storage_healthy"] is True
                assert health["event_bus_type"] == "memory"
                assert health["storage_status"]["status"] == "healthy"
                assert health["storage_status"]["latency_ms"] >= 0
                assert health["subscribed_topics"] == ["t"]
                assert health["agents"] == await outside.list_agents()
                assert (health["active_consumers"], health["registered_agents_count"]) == (1, 1)
                assert (health["healthy_agents_count"], health["unhealthy_agents_count"]) == (1, 0)
                assert 0 <= health["uptime_seconds"] < 5
                agent = health["agent_health"]["t/echo"]
                assert agent["healthy"] is True
                assert (agent["lag"], agent["pending"], agent["dead_letters"]) == (0, 0, 0)
                assert health["runner_id"] == health["workers"][0]["worker"]
                assert await outside.storage_health() == {
                    **health["storage_status"],
                    "latency_ms": pytest.approx(0, abs=500),
                }
            health = await outside.health()
            assert (health["status"], health["is_running"]) == ("stopped", False)
            assert health["runner_id"] is None
            assert (health["healthy_agents_count"], health["unhealthy_agents_count"]) == (0, 1)

    run(main())


def test_health_is_degraded_by_many_dead_letters_and_orphans(make_sdk, serve, run):
    sdk = make_sdk(max_dead_letters=1, orphan_after=0)
    sdk.agent("t", retry=ONCE)(picky)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", "bad")
            with pytest.raises(TaskFailed):
                await event.result(timeout=1)
            health = await sdk.health()
            assert health["status"] == "degraded"
            assert any("1 dead letters are kept" in warning for warning in health["warnings"])
            await sdk.purge_dead_letters(topic="t")
            assert (await sdk.health())["status"] == "running"
        async with sdk:
            health = await sdk.health()
            assert health["status"] == "degraded"
            assert "omnidaemon agent delete t picky --cleanup" in health["warnings"][0]

    run(main())


def test_an_agent_without_a_worker_since_a_moment_is_no_orphan(make_sdk, serve, run):
    sdk = make_sdk(orphan_after=0.2)
    sdk.agent("t")(echo)

    async def main():
        async with serve(sdk):
            await asyncio.sleep(0.25)  # registered longer ago than that, and served until now
            await sdk.register_agent(AgentConfig(topic="t", callback=echo, name="late"))
        async with sdk:
            # The worker noted what it served when it began; "late" it would have noted with its next round.
            assert [warning.split()[1] for warning in (await sdk.health())["warnings"]] == ["echo"]
            await sdk.store.put(SEEN, [Put(seen_key("t", "echo"), b"1", ttl=60)])
            assert (await sdk.health())["warnings"] == []
            assert (await sdk.health())["status"] == "stopped"

    run(main())


class Flaky(MemoryStore):
    """A store that can be switched off, together with its twins."""

    down = False

    async def ping(self):
        if Flaky.down:
            raise BackendUnavailable("the store does not answer")
        await super().ping()

    async def open(self):
        if Flaky.down:
            raise BackendUnavailable("the store does not answer")
        await super().open()


def test_health_never_raises_for_a_lost_backend(run, monkeypatch):
    sdk = OmniDaemonSDK(event_bus=MemoryEventBus(), store=Flaky(), connect_timeout=0.01)
    monkeypatch.setattr(Flaky, "down", True)

    async def main():
        for _ in range(2):
            health = await sdk.health()
            assert set(health) >= HEALTH
            assert (health["status"], health["is_running"], health["storage_healthy"]) == ("down", False, False)
            assert health["error"] == "the store does not answer"
            storage = await sdk.storage_health()
            assert (storage["status"], storage["connected"], storage["error"]) == (
                "unhealthy",
                False,
                "the store does not answer",
            )
            Flaky.down = False
            async with sdk:
                assert (await sdk.health())["status"] == "ready"
                Flaky.down = True
                assert (await sdk.health())["status"] == "down"

    run(main())
