"""Attempts that fail: retries, time-outs, dead letters, expiry (design D6-D13, Q1-Q3)."""

import asyncio
import itertools
import json
import logging
import time
from datetime import timedelta

import pytest

from omnidaemon import (
    AgentConfig,
    Context,
    EventEnvelope,
    InvalidEvent,
    NonRetryable,
    RetryAfter,
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


def test_a_failed_attempt_is_repeated_and_the_message_says_which_it_is(sdk, serve, run):
    seen = []

    @sdk.agent("t", retry=QUICK)
    async def work(message, ctx: Context):
        seen.append((message["delivery_attempts"], ctx.attempt, ctx.event.delivery_attempts))
        if len(seen) < 3:
            raise OSError(len(seen))
        return "done"

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=1) == "done"
            assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
            record = await event.task().info()
            assert record["attempt"] == record["delivery_attempts"] == 3
            assert record["starts"] == 3
            assert "last_error" not in record
            assert [(entry["attempt"], entry.get("error_type")) for entry in record["history"]] == [
                (1, "OSError"),
                (2, "OSError"),
                (3, None),
            ]
            assert all(entry["worker"] == record["runner_id"] and entry["took"] >= 0 for entry in record["history"])

    run(main())


def test_retries_wait_as_the_policy_says(sdk, serve, run):
    times = []

    @sdk.agent("t", retry=RetryPolicy(max_attempts=4, initial=0.05, factor=2, max=0.08, jitter="none"))
    async def work():
        times.append(time.monotonic())
        raise OSError

    async def main():
        async with serve(sdk):
            await failure(await sdk.publish("t"))
            waits = [later - before for before, later in itertools.pairwise(times)]
            for wait, wanted in zip(waits, (0.05, 0.08, 0.08), strict=True):
                assert wanted <= wait < wanted + 0.1

    run(main())


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


def test_non_retryable_is_given_up_at_once(sdk, serve, run):
    @sdk.agent("t")
    async def work():
        raise NonRetryable("cannot help")

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.attempts, error.reason, error.message) == (1, "non_retryable", "cannot help")

    run(main())


def test_a_subclass_of_a_signal_counts_as_the_signal(sdk, serve, run):
    class Busy(RetryAfter):
        pass

    seen = []

    @sdk.agent("t", retry=ONCE)
    async def work():
        seen.append(1)
        if len(seen) == 1:
            raise Busy(0.001, "come back")
        return len(seen)

    async def main():
        async with serve(sdk):
            assert await (await sdk.publish("t")).result(timeout=1) == 2

    run(main())


def test_retry_after_is_obeyed_and_spends_no_attempt(sdk, serve, run):
    times = []

    @sdk.agent("t", retry=ONCE)
    async def work(ctx: Context):
        times.append(time.monotonic())
        if len(times) < 3:
            raise RetryAfter(0.05)
        return ctx.attempt

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            assert await event.result(timeout=2) == 1
            assert all(later - before >= 0.05 for before, later in itertools.pairwise(times))
            metrics = (await sdk.metrics())["t"]["work"]
            assert metrics["postponed"] == 2
            assert metrics["attempts_failed"] == 0

    run(main())


def test_retry_after_ends_after_100_times_and_a_replay_begins_anew(sdk, serve, run):
    runs = []

    @sdk.agent("t")
    async def work():
        runs.append(1)
        raise RetryAfter(0)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            error = await failure(event, 5)
            assert error.reason == "retry_after_exhausted"
            assert len(runs) == 101
            record = await event.task().info()
            assert len(record["history"]) == 20
            assert await sdk.replay_dead_letters(event.id) == 1
            while len(runs) < 202 or (await event.task().info())["state"] != "failed":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert len(runs) == 202

    run(main())


def test_retry_after_that_would_be_too_late(sdk, serve, run):
    runs = []

    @sdk.agent("t")
    async def work():
        runs.append(1)
        raise RetryAfter(60)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t", expires_at=time.time() + 30)
            error = await failure(event)
            assert error.reason == "retry_after_exhausted"
            assert len(runs) == 1

    run(main())


def test_retry_after_takes_a_timedelta_and_no_nonsense():
    assert RetryAfter(timedelta(minutes=1)).seconds == 60
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            RetryAfter(seconds)


def test_a_timeout_is_a_failed_attempt_and_cancels(sdk, serve, run):
    seen = []

    @sdk.agent("t", timeout=0.03, retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work(ctx: Context):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append(ctx.cancelled.is_set())
            raise

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.type, error.reason, error.attempts) == ("TimeoutError", "timeout", 2)
            assert error.message == "the attempt took longer than timeout=0.03 s"
            assert len(seen) == 2

    run(main())


def test_an_agent_that_swallows_its_cancellation_is_late_all_the_same(sdk, serve, run):
    @sdk.agent("t", timeout=0.03, retry=ONCE)
    async def work():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "too late"

    async def main():
        async with serve(sdk):
            assert (await failure(await sdk.publish("t"))).reason == "timeout"

    run(main())


def test_an_agents_own_timeout_error_is_an_ordinary_failure(sdk, serve, run):
    @sdk.agent("t", timeout=5, retry=ONCE)
    async def work():
        raise TimeoutError("theirs")

    async def main():
        async with serve(sdk):
            error = await failure(await sdk.publish("t"))
            assert (error.type, error.message, error.reason) == ("TimeoutError", "theirs", "max_attempts")

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


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(Exception):
    __str__ = staticmethod(lambda: 5)  # type: ignore[assignment]


ERRORS = {
    "NUL": ValueError("a\x00b"),
    "surrogates": ValueError("a\ud800b\udfff"),
    "control characters": ValueError("".join(map(chr, range(1, 32))) * 500),
    "emoji": ValueError("\U0001f600" * 5_000),
    "huge": ValueError("x" * 5_000_000),
    "many lines": ValueError("x\n" * 100_000),
    "no text": Unprintable(),
    "a text that is none": Odd(),
    "an unprintable note": None,
    "a chain": None,
    "a group": ExceptionGroup("many", [ValueError("x" * 1000) for _ in range(100)]),
    "a long name": type("N" * 3000, (Exception,), {})("x"),
    "a name with a quote": type('N"\n', (Exception,), {})("x"),
}
ERRORS["an unprintable note"] = ValueError("noted")
ERRORS["an unprintable note"].__notes__ = [Unprintable()]  # type: ignore[list-item]
ERRORS["a chain"] = ValueError("end")
ERRORS["a chain"].__cause__ = Unprintable()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", ERRORS)
def test_any_exception_can_be_kept(sdk, serve, run, what, capfd, monkeypatch):
    # The log holds the exception as it is, and xdist could not send pytest's report of this one.
    monkeypatch.setattr(logging.getLogger("omnidaemon.worker"), "disabled", what == "surrogates")

    @sdk.agent("t", retry=RetryPolicy(max_attempts=2, initial=0.001))
    async def work():
        raise ERRORS[what]

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            error = await failure(event)
            assert (error.reason, error.attempts) == ("max_attempts", 2)
            record = await event.task().info()
            for entry in record["history"]:
                assert len(json.dumps(entry, ensure_ascii=False).encode()) <= 4200
                assert entry["traceback"]
            json.dumps(record).encode()

    run(main())
    assert capfd.readouterr().err == ""


def test_a_step_with_a_thousand_names_is_cut_in_the_history(sdk, serve, run):
    @sdk.agent("t")
    async def work(ctx: Context):
        for number in range(300):
            await ctx.step(f"step number {number}", int)

    async def main():
        async with serve(sdk):
            event = await sdk.publish("t")
            await event.result(timeout=3)
            (entry,) = (await event.task().info())["history"]
            assert len(json.dumps(entry).encode()) <= 4200
            assert "step number 0" in entry["steps"]
            assert "..." in entry["steps"]

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
