"""Dead letters: what they keep, and how they are chosen, replayed and mirrored (design Q1-Q3, D9)."""

import asyncio
import time

import pytest

from omnidaemon import (
    AgentConfig,
    Context,
    EventEnvelope,
    InvalidEvent,
    NonRetryable,
    RetryPolicy,
    SubscriptionConfig,
    TaskFailed,
    TaskNotFound,
)
from omnidaemon.model.run import Outgoing

QUICK = RetryPolicy(max_attempts=3, initial=0.001)


ONCE = RetryPolicy(max_attempts=1)


async def failure(event, timeout=2):
    with pytest.raises(TaskFailed) as caught:
        await event.result(timeout=timeout)
    return caught.value


def test_giving_up_keeps_type_message_traceback_and_every_attempt(sdk, serve, run):
    @sdk.agent("t", retry=QUICK, version="7", dead_letter=True)
    async def work(ctx: Context):
        raise ValueError(f"attempt {ctx.attempt}") if ctx.attempt < 3 else KeyError("last")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"a": 1}, tenant_id="acme")
            error = await failure(event)
            assert (error.type, error.message, error.attempts, error.reason) == (
                "KeyError",
                "'last'",
                3,
                "max_attempts",
            )
            (letter,) = await sdk.dead_letters()
            assert letter["reason"] == "max_attempts"
            assert letter["state"] == letter["status"] == "failed"
            assert letter["content"] == {"a": 1}
            assert letter["tenant_id"] == "acme"
            assert letter["version"] == "7"
            assert letter["task_id"] == event.id
            assert letter["expires_at"] is None
            assert [(entry["error_type"], entry["error"]) for entry in letter["history"]] == [
                ("ValueError", "attempt 1"),
                ("ValueError", "attempt 2"),
                ("KeyError", "'last'"),
            ]
            assert all("in work" in entry["traceback"] for entry in letter["history"])
            metrics = (await sdk.metrics())["t"]["work"]
            assert metrics["errors"] == {"ValueError": 2, "KeyError": 1}
            assert metrics["tasks_failed"] == metrics["dead_lettered"] == metrics["tasks_received"] == 1
            assert metrics["attempts_failed"] == 3
            assert metrics["retried"] == 2

    run(main())


def test_without_dead_letters_the_failed_record_keeps_everything(sdk, serve, run):
    @sdk.agent("t", retry=ONCE, dead_letter=False, dead_letter_topic="dead")
    async def work():
        raise ValueError("why")

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"a": 1})
            error = await failure(event)
            assert (error.type, error.attempts) == ("ValueError", 1)
            assert await sdk.dead_letters() == []
            record = await sdk.get_result(event.id)
            assert record["content"] == {"a": 1}
            assert record["history"][0]["traceback"]
            assert record["expires_at"] is not None
            with pytest.raises(TaskNotFound, match="is no dead letter"):
                await sdk.replay_dead_letters(event.id)
            assert (await sdk.metrics())["t"]["work"]["dead_lettered"] == 0
            await asyncio.sleep(0.03)
            assert [entry["topic"] for entry in await sdk.list_topics()] == ["t"]

    run(main())


def test_dead_letters_may_be_mirrored_to_a_topic(sdk, serve, run, eventually):
    @sdk.agent("t", retry=ONCE, dead_letter_topic="dead")
    async def work():
        raise ValueError("why")

    @sdk.agent("dead", dead_letter_topic="dead", retry=ONCE)
    async def undertaker():
        raise OSError("me too")

    fields = {"tenant_id": "acme", "correlation_id": "c", "headers": {"h": "1"}, "key": "k", "reply_to": "replies"}

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", {"a": 1}, **fields)
            await failure(event)

            async def copies():
                found = await sdk.inspect_topic("dead", 100)
                return found if len(found) == 32 else None

            # A handler of dead letters that fails as well does not go on for ever.
            found = await eventually(copies)
            first = found[-1]["data"]
            assert first["payload"] == {"content": {"a": 1}}
            assert first["headers"] == {
                "h": "1",
                "omnidaemon-dead-letter": "max_attempts",
                "omnidaemon-topic": "t",
                "omnidaemon-agent": "work",
            }
            assert (first["tenant_id"], first["correlation_id"], first["causation_id"]) == ("acme", "c", event.id)
            assert first["id"] != event.id
            assert "key" not in first
            assert len(await sdk.dead_letters(agent="work")) == 1

            async def all_dead():
                return len(await sdk.dead_letters(agent="undertaker", limit=100)) == 32

            await eventually(all_dead)
            assert "replies" not in {entry["topic"] for entry in await sdk.list_topics()}

    run(main())


def test_a_dead_letter_is_replayed_once_with_fresh_attempts_and_kept_history(sdk, serve, run):
    mended, seen = False, []

    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work(ctx: Context):
        seen.append(ctx.attempt)
        if not mended:
            raise OSError
        return "fine"

    @sdk.agent("t")
    async def other():
        seen.append("other")

    async def main():
        nonlocal mended
        async with serve(sdk):
            event = await sdk.publish("t")
            await failure(event.task("work"))
            await event.result(agent="other", timeout=1)
            mended = True
            assert sum(await asyncio.gather(*(sdk.replay_dead_letters([f"{event.id}:work"]) for _ in range(1)))) == 1
            assert await event.result(agent="work", timeout=1) == "fine"
            assert sorted(map(str, seen)) == ["1", "1", "2", "other"]
            record = await event.task("work").info()
            assert [entry["generation"] for entry in record["history"]] == [0, 0, 1]
            assert await sdk.dead_letters() == []
            with pytest.raises(TaskNotFound, match="is no dead letter"):
                await sdk.replay_dead_letters(f"{event.id}:work")
            metrics = (await sdk.metrics())["t"]["work"]
            assert (metrics["tasks_received"], metrics["tasks_processed"], metrics["tasks_failed"]) == (1, 1, 1)

    run(main())


def test_dead_letters_are_chosen_by_id_or_filter(sdk, serve, run):
    @sdk.agent("t", retry=ONCE)
    async def one(message):
        raise NonRetryable if message["content"] else OSError

    @sdk.agent("u", retry=ONCE)
    async def two():
        raise OSError

    async def main():
        async with serve(sdk):
            events = [
                await sdk.publish("t", 0, tenant_id="a"),
                await sdk.publish("t", 1, tenant_id="b"),
                await sdk.publish("u", 0, tenant_id="b"),
            ]
            for event in events:
                await failure(event)
        async with sdk:
            for query, count in (
                ({}, 3),
                ({"topic": "t"}, 2),
                ({"agent": "two"}, 1),
                ({"tenant": "b"}, 2),
                ({"since": time.time() + 60}, 0),
                ({"limit": 1}, 1),
            ):
                assert len(await sdk.dead_letters(**query)) == count
            assert len(await sdk.inspect_dlq("t")) == 2
            for call in (sdk.replay_dead_letters, sdk.purge_dead_letters):
                with pytest.raises(InvalidEvent, match="name what is meant: ids, or topic="):
                    await call()
                with pytest.raises(TaskNotFound, match="nothing is no dead letter"):
                    await call(["nothing"])
                assert await call([]) == 0
                assert await call(reason="timeout") == 0
            assert await sdk.purge_dead_letters(reason="non_retryable") == 1
            assert await sdk.replay_dead_letters(tenant="b") == 1
            assert await sdk.purge_dead_letters(events[0].id) == 1
            assert await sdk.dead_letters() == []

    run(main())


def test_replaying_for_a_deleted_agent_says_what_to_do(sdk, serve, run):
    @sdk.agent("t", retry=ONCE)
    async def work():
        raise OSError

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await failure(event)
        async with sdk:
            await sdk.delete_agent("t", "work", delete_group=True)
            assert len(await sdk.dead_letters()) == 1
            with pytest.raises(TaskNotFound, match="agent work on t was deleted; register it before replaying"):
                await sdk.replay_dead_letters(event.id)

    run(main())


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"\xff\xfe", b"[]", b"5", b"null", b'"text"', b"{}", b'{"topic": 5}', b'{"id": "x"}', b"\x00"],
)
def test_what_cannot_be_decoded_is_a_dead_letter_with_its_bytes_and_neighbours_are_unharmed(
    sdk, serve, run, eventually, body
):
    ran = []

    @sdk.agent("t", dead_letter_topic="dead")
    async def work(message):
        ran.append(message["content"])

    async def main():
        async with sdk:
            await sdk.event_bus.publish([Outgoing("t", "poison", body)], 1)
            event = await sdk.publish("t", "fine")
        async with serve(sdk):
            await event.result(timeout=1)
            (letter,) = await eventually(sdk.dead_letters)
            assert letter["reason"] == "undecodable"
            assert letter["history"][0]["error"].startswith("not an event")
            assert letter.get("raw", "") == body.decode("utf-8", "replace")
            assert ran == ["fine"]
            assert len(await sdk.inspect_topic("t")) == 2
            assert await sdk.purge_dead_letters(topic="t") == 1

    run(main())


def test_a_newer_major_schema_waits_and_health_says_so(sdk, serve, run, eventually):
    @sdk.agent("t")
    async def work():
        raise AssertionError

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", 1, schema_version="2.0")

            async def waiting():
                record = await event.task().info()
                return record if record and record["state"] == "submitted" else None

            record = await eventually(waiting)
            assert record["next_attempt_at"] > time.time() + 10
            assert await sdk.dead_letters() == []
            await (await sdk.publish("u")).task().info()

    run(main())


def test_unknown_fields_and_minor_versions_are_kept(sdk, serve, run):
    seen = []

    @sdk.agent("t")
    async def work(event: EventEnvelope):
        seen.append(event)

    async def main():
        async with sdk, serve(sdk):
            body = b'{"id":"e","topic":"t","payload":{"content":1,"new":[2]},"later":{"a":1},"schema_version":"1.9"}'
            await sdk.event_bus.publish([Outgoing("t", "e", body)], 1)
            await sdk.task("e:work").result(timeout=1)
            assert seen[0].model_extra == {"later": {"a": 1}}
            assert seen[0].payload.model_extra == {"new": [2]}

    run(main())


def test_nothing_is_lost_when_several_agents_fail_differently(sdk, serve, run):
    for name, error in (("dead", NonRetryable()), ("retried", OSError()), ("fine", None)):

        async def work(errors=(error,)):
            if errors[0] is not None:
                raise errors[0]

        config = SubscriptionConfig(retry=RetryPolicy(max_attempts=2, initial=0.001))
        sdk.add_agent(AgentConfig(topic="t", name=name, callback=work, config=config))

    async def main():
        async with serve(sdk):
            events = [await sdk.publish("t", number) for number in range(20)]
            for event in events:
                outcomes = await event.results(timeout=2)
                assert {name: outcome.state.value for name, outcome in outcomes.items()} == {
                    "dead": "failed",
                    "retried": "failed",
                    "fine": "completed",
                }
            metrics = (await sdk.metrics())["t"]
            assert [metrics[name]["attempts_failed"] for name in ("dead", "retried", "fine")] == [20, 40, 0]

    run(main())
