"""What can be seen from any process (api.md §3, surface.md §1.2 and §1.9, design T2)."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from omnidaemon import (
    AgentConfig,
    Context,
    InvalidEvent,
    NonRetryable,
    RetryPolicy,
    SubscriptionConfig,
    TaskState,
)

ONCE = RetryPolicy(max_attempts=1)


async def echo(message):
    """Give back what came."""
    return message["content"]


async def picky(message):
    if message["content"] == "bad":
        raise NonRetryable("no")
    return message["content"]


def test_agents_are_listed_by_topic_with_what_was_declared(sdk, serve, run):
    sdk.add_agent(
        AgentConfig(
            topic="t",
            callback=echo,
            name="work",
            tools=["a", "b"],
            description="does it",
            version="2.1.0",
            tags=["x"],
            config=SubscriptionConfig(max_concurrency=3, timeout=timedelta(minutes=1)),
        )
    )
    sdk.add_agent(AgentConfig(topic="u", callback=echo))

    async def main():
        async with serve(sdk):
            pass
        async with sdk:
            listed = await sdk.list_agents()
            assert list(listed) == ["t", "u"]
            (agent,) = listed["t"]
            assert agent["name"] == "work"
            assert agent["topic"] == "t"
            assert agent["tools"] == ["a", "b"]
            assert agent["description"] == "does it"
            assert agent["version"] == "2.1.0"
            assert agent["tags"] == ["x"]
            assert agent["callback"] == "echo"
            assert agent["state"] == "active"
            assert agent["config"]["max_concurrency"] == 3
            assert agent["config"]["timeout"] == 60
            assert agent["config"]["retry"]["max_attempts"] == 4
            assert abs(agent["registered_at"] - time.time()) < 5
            assert await sdk.get_agent(topic="t", agent_name="work") == agent
            assert (await sdk.get_agent("u", "echo"))["version"] == "1.0.0"

    run(main())


def test_a_result_keeps_its_shape(sdk, serve, run):
    sdk.agent("t", version="3")(echo)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"a": 1}, tenant_id="acme", correlation_id="c", source="s")
            await event.result(timeout=1)
            result = await sdk.get_result(task_id=event.id)
            assert set(result) >= {
                "content", "webhook", "reply_to", "topic", "task_id", "correlation_id", "causation_id", "source",
                "delivery_attempts", "created_at", "agent", "tenant_id", "runner_id", "status", "result", "timestamp",
            }  # fmt: skip
            assert result["result"] == result["content"] == {"a": 1}
            assert result["status"] == "completed"
            assert result["version"] == "3"
            assert result["agent"] == "echo"
            assert result["tenant_id"] == "acme"
            assert result["task_id"] == event.id
            assert abs(result["timestamp"] - time.time()) < 5
            assert result["expires_at"] - result["timestamp"] == pytest.approx(86_400)
            assert await sdk.get_result(f"{event.id}:echo") == result
            (listed,) = await sdk.list_results()
            assert listed == {"task_id": event.id, "result": result, "saved_at": result["timestamp"]}
            assert await sdk.get_result("nothing") is None
            worker = (await sdk.health())["workers"][0]["worker"]
            assert result["runner_id"] == worker

    run(main())


def test_a_record_says_why_it_ran_and_how_long_it_took(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def first(ctx: Context):
        await ctx.step("wait", asyncio.sleep, 0.01)
        await ctx.publish("u", 1)

    @sdk.agent("u")
    async def second():
        await asyncio.sleep(0.01)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            await event.result(timeout=1)

            async def done():
                return (await sdk.list_tasks(agent="second", state="completed"))["tasks"]

            (caused,) = await eventually(done)
            assert caused["causation_id"] == event.id
            assert caused["took"] >= 0.01
            record = await event.task().info()
            assert record["history"][0]["steps"]["wait"] >= 0.01
            assert record["history"][0]["took"] >= 0.01

    run(main())


def test_an_expired_result_is_never_shown(make_sdk, serve, run):
    sdk = make_sdk(result_ttl=0.05)
    sdk.agent("t")(echo)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1)
            assert await event.result(timeout=1) == 1
            await asyncio.sleep(0.06)
            assert await sdk.get_result(event.id) is None
            assert await sdk.list_results() == []
            # And still it is remembered as done.
            await sdk.publish("t", 1, id=event.id)
            await (await sdk.publish("t", 2)).result(timeout=1)
            assert (await sdk.metrics())["t"]["echo"]["tasks_processed"] == 2

    run(main())


def test_lists_are_filtered_and_paged(sdk, serve, run):
    sdk.agent("t", retry=ONCE)(picky)
    sdk.agent("u")(echo)

    async def main():
        async with serve(sdk):
            events = [await sdk.publish("t", n, tenant_id="ab"[n % 2]) for n in range(5)]
            events.append(await sdk.publish("t", "bad", tenant_id="a"))
            events.append(await sdk.publish("u", 1))
            for event in events:
                await event.results(timeout=1)
        async with sdk:

            async def ids(**query):
                return {record["task_id"] for record in (await sdk.list_tasks(**query))["tasks"]}

            every = {event.id for event in events}
            assert await ids() == every
            assert await ids(agent="echo") == {events[6].id}
            assert await ids(topic="t") == every - {events[6].id}
            assert await ids(state="failed") == await ids(state=TaskState.FAILED) == {events[5].id}
            assert await ids(state=["failed", "completed"]) == every
            assert await ids(tenant="b") == {events[1].id, events[3].id}
            assert await ids(since=time.time() + 5) == set()
            assert await ids(since=datetime.now(UTC) - timedelta(minutes=1)) == every
            seen, cursor = [], None
            while True:
                page = await sdk.list_tasks(limit=2, cursor=cursor)
                seen += [record["task_id"] for record in page["tasks"]]
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert len(seen) == 7
            assert set(seen) == every
            for listed in (sdk.list_results, sdk.dead_letters):
                found, cursor = [], None
                while True:
                    entries = await listed(limit=1, cursor=cursor)
                    found += [entry["task_id"] for entry in entries]
                    cursor = entries.cursor
                    if cursor is None:
                        break
                assert sorted(found) == sorted(every if listed == sdk.list_results else {events[5].id})
            assert len(await sdk.list_results(limit=3)) == 3
            assert {entry["task_id"] for entry in await sdk.list_results(tenant="b")} == {events[1].id, events[3].id}
            saved = [entry["saved_at"] for entry in await sdk.list_results()]
            assert saved == sorted(saved, reverse=True)

    run(main())


@pytest.mark.parametrize("limit", [0, -1, 1.5, "5", None])
def test_senseless_limits_are_refused(sdk, run, limit):
    async def main():
        async with sdk:
            for call in (
                sdk.list_results(limit),
                sdk.list_tasks(limit=limit),
                sdk.dead_letters(limit=limit),
                sdk.inspect_dlq("t", limit),
                sdk.inspect_topic("t", limit),
                sdk.inspect_stream("t", limit),
            ):
                with pytest.raises(InvalidEvent, match=f"limit={limit!r} must be a whole number from 1"):
                    await call

    run(main())


@pytest.mark.parametrize("cursor", ["", "nonsense", "bnVsbA==", "WzEsMl0=", "é"])
def test_a_cursor_that_is_none_is_refused(sdk, run, cursor):
    async def main():
        async with sdk:
            for call in (sdk.list_tasks(cursor=cursor), sdk.dead_letters(cursor=cursor)):
                with pytest.raises(InvalidEvent, match=f"cursor={cursor!r} is none"):
                    await call

    run(main())


def test_an_unknown_state_is_refused(sdk, run):
    async def main():
        async with sdk:
            with pytest.raises(InvalidEvent, match="'done' is not a valid TaskState; states are submitted, working"):
                await sdk.list_tasks(state="done")

    run(main())


def test_topics_are_listed_and_inspected(sdk, serve, run):
    sdk.agent("t")(echo)

    async def main():
        async with serve(sdk):
            events = [await sdk.publish("t", n) for n in range(3)]
            for event in events:
                await event.result(timeout=1)
            assert await sdk.list_topics() == [{"topic": "t", "length": 3}]
            assert await sdk.list_streams() == [{"stream": "t", "length": 3}]
            newest = await sdk.inspect_topic("t", limit=2)
            assert [entry["data"]["payload"]["content"] for entry in newest] == [2, 1]
            assert [entry["data"]["id"] for entry in newest] == [events[2].id, events[1].id]
            assert await sdk.inspect_stream("t", 2) == newest
            assert await sdk.inspect_topic("unknown") == []
            stats = await sdk.topic_stats("t")
            assert (stats["topic"], stats["length"], stats["dlq_total"]) == ("t", 3, 0)
            (group,) = stats["groups"]
            assert (group["name"], group["lag"], group["pending"], group["dead_letters"]) == ("echo", 0, 0, 0)
            assert group["last_delivered_id"] == newest[0]["id"]
            assert await sdk.list_groups(stream="t") == [group]
            assert await sdk.list_groups("unknown") == []
            snapshot = (await sdk.get_bus_stats())["snapshot"]
            assert snapshot["topics"] == {"t": stats}
            assert abs(snapshot["timestamp"] - time.time()) < 5

    run(main())


def test_metrics_are_exact_and_have_percentiles(sdk, serve, run):
    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001), max_concurrency=1)
    async def work(message):
        time.sleep(message["content"])  # noqa: ASYNC251 - exactly so long
        if message["content"] == 0.03:
            raise OSError

    async def main():
        began = datetime.now(UTC)
        async with serve(sdk):
            events = [await sdk.publish("t", seconds) for seconds in [0.01] * 8 + [0.03] + [0.05]]
            for event in events:
                await event.results(timeout=2)
            metrics = await sdk.metrics()
            assert list(metrics) == ["t"]
            work_ = metrics["t"]["work"]
            assert (work_["tasks_received"], work_["tasks_processed"], work_["tasks_failed"]) == (10, 9, 1)
            assert (work_["attempts_failed"], work_["retried"], work_["dead_lettered"]) == (2, 1, 1)
            assert (work_["rejected"], work_["canceled"], work_["postponed"], work_["asked"]) == (0, 0, 0, 0)
            assert work_["errors"] == {"OSError": 2}
            records = (await sdk.list_tasks())["tasks"]
            took = sorted(
                entry["took"] for record in records for entry in record["history"] or [{"took": record["took"]}]
            )
            assert len(took) == 11
            assert took[0] >= 0.01
            assert took[-1] >= 0.05
            assert work_["total_processing_time"] == pytest.approx(sum(took), abs=1e-4)
            assert work_["avg_processing_time_sec"] == pytest.approx(sum(took) / 11, abs=1e-4)
            for name, rank in (("p50", 6), ("p95", 11), ("p99", 11)):
                assert work_["latency_sec"][name] == pytest.approx(took[rank - 1], rel=0.02)
            assert await sdk.get_metrics() == await sdk.metrics(topic="t", limit=5) == metrics
            assert await sdk.metrics(agent="work", since=began, until=datetime.now(UTC)) == metrics
            assert await sdk.metrics(since=time.time() + 3600) == {}
            assert await sdk.metrics("u") == {}
            assert await sdk.clear_metrics() >= 1
            assert await sdk.metrics() == {}
            # Stops nobody (S5).
            await (await sdk.publish("t", 0)).result(timeout=1)

    run(main())


def test_received_counts_cancelled_and_rejected_tasks_too(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def work():
        await asyncio.sleep(30)

    async def main():
        async with serve(sdk):
            expired = await sdk.publish("t", 1, expires_at=1.0)
            await expired.results(timeout=1)
            event = await sdk.publish("t")
            await eventually(event.task().info)
            await event.task().cancel()
            metrics = (await sdk.metrics())["t"]["work"]
            assert (metrics["rejected"], metrics["canceled"]) == (1, 1)

    run(main())
