"""Rules D6 to D13 and Q1 to Q4: attempts that fail, and runs that are given up on."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from functools import partial
from typing import Any

from omnidaemon import (
    AgentConfig,
    Context,
    NonRetryable,
    RetryAfter,
    RetryPolicy,
    SubscriptionConfig,
    TaskFailed,
    TaskRejected,
)
from omnidaemon.runtime import intake
from omnidaemon_testing.content import event_bytes
from omnidaemon_testing.contracts.worker.base import WorkerBase, echo

__all__ = ["FailureRules"]


class FailureRules(WorkerBase):
    """What failing does."""

    async def test_d6_a_failed_attempt_is_repeated(self) -> None:
        """A raised error is tried again after its wait: never early, soon after, as the next attempt.

        Trouble-shooting: the wait is drawn once and kept in the store.
        """

        async def flaky(message: dict[str, Any], ctx: Context) -> str:
            if ctx.attempt < 3:
                raise ConnectionError(f"attempt {ctx.attempt}")
            return f"attempt {ctx.attempt} of {message['delivery_attempts']}"

        wait = self.timing.lease / 2
        policy = RetryPolicy(max_attempts=4, initial=wait, factor=1, jitter="none")
        sdk = await self.worker(flaky, retry=policy)
        handle = await sdk.publish(self.topic, "x")
        other = await sdk.publish(self.topic, "y")
        assert await handle.result(timeout=self.timing.deadline) == "attempt 3 of 3"
        assert await other.result(timeout=self.timing.deadline) == "attempt 3 of 3"
        mine = [run for run in self.runs if run.event_id == handle.id]
        assert [run.attempt for run in mine] == [1, 2, 3]
        for before, after in itertools.pairwise(mine):
            assert before.end is not None
            waited = after.begin - before.end
            assert waited >= wait * 0.95, f"tried again after {waited:.3f} s of {wait:g} s"
            assert waited <= wait + 1.0 + self.timing.slack
        task = await sdk.get_task(handle.id)
        assert task is not None
        assert [entry.get("error_type") for entry in task["history"]] == ["ConnectionError", "ConnectionError", None]

    async def test_d6_others_go_on_meanwhile(self) -> None:
        """While many runs wait for their retry, fresh events are run.

        Trouble-shooting: waiting retries hold no slot; a storm of them takes half of the slots.
        """

        async def storm(message: dict[str, Any], ctx: Context) -> Any:
            if isinstance(message["content"], int):
                raise ConnectionError("still down")
            return await echo(message, ctx)

        policy = RetryPolicy(max_attempts=1000, initial=0.01, factor=1)
        sdk = await self.worker(storm, retry=policy, max_concurrency=4)
        await self.publish(sdk, 40)
        await self.until_runs(80)
        fresh = await sdk.publish(self.topic, "fresh")
        assert await fresh.result(timeout=self.timing.deadline) == "fresh"

    async def test_d7_after_its_attempts_a_run_is_a_dead_letter(self) -> None:
        """After ``max_attempts`` comes a dead letter with type, message, traceback and every attempt.

        Trouble-shooting: the history is in the record's data, settled with the outcome.
        """

        async def broken(message: dict[str, Any], ctx: Context) -> None:
            raise ValueError(f"cannot read {message['content']} in attempt {ctx.attempt}")

        sdk = await self.worker(broken)
        handle = await sdk.publish(self.topic, "this", tenant_id="acme")
        async with self.refusal(TaskFailed) as caught:
            await handle.result(timeout=self.timing.deadline)
        error = caught.error
        assert isinstance(error, TaskFailed)
        assert (error.type, error.reason, error.attempts) == ("ValueError", "max_attempts", 3)
        assert "cannot read this" in str(error)
        assert "broken" in error.traceback, "the traceback does not show the agent"
        letters = await sdk.dead_letters(self.topic, "agent", tenant="acme")
        assert len(letters) == 1, f"one dead letter was to be kept, there are {len(letters)}"
        letter = letters[0]
        assert (letter["task_id"], letter["reason"], letter["content"]) == (handle.id, "max_attempts", "this")
        assert [entry["attempt"] for entry in letter["history"]] == [1, 2, 3]
        assert all(entry["worker"] and entry["started"] for entry in letter["history"])
        assert self.starts(handle.id) == 3

    async def test_d7_without_dead_letters_the_record_keeps_everything(self) -> None:
        """With ``dead_letter=False`` the task is ``failed``, its record has it all, and no letter is kept.

        Trouble-shooting: the reason is in the data then, not in the field that makes a dead letter.
        """

        async def broken(message: dict[str, Any], ctx: Context) -> None:
            assert message is not None
            raise ValueError(ctx.attempt)

        sdk = await self.worker(broken, dead_letter=False)
        handle = await sdk.publish(self.topic, "x")
        async with self.refusal(TaskFailed):
            await handle.result(timeout=self.timing.deadline)
        task = await sdk.get_task(handle.id)
        assert task is not None
        assert (task["state"], len(task["history"])) == ("failed", 3)
        assert await sdk.dead_letters(self.topic) == []

    async def test_d8_non_retryable_gives_up_at_once(self) -> None:
        """``NonRetryable`` makes a dead letter of the first attempt.

        Trouble-shooting: the runner maps its framework's errors onto it.
        """

        async def hopeless(message: dict[str, Any], ctx: Context) -> None:
            assert ctx.attempt == 1
            raise NonRetryable(f"no such account: {message['content']}")

        sdk = await self.worker(hopeless)
        handle = await sdk.publish(self.topic, 7)
        async with self.refusal(TaskFailed) as caught:
            await handle.result(timeout=self.timing.deadline)
        assert getattr(caught.error, "reason", None) == "non_retryable"
        assert self.starts(handle.id) == 1

    async def test_d8_retry_after_is_obeyed_and_spends_nothing(self) -> None:
        """``RetryAfter(seconds)`` is tried again then, with the same attempt.

        Trouble-shooting: the next attempt's number is this one's.
        """
        wait = self.timing.lease / 2

        async def busy(message: dict[str, Any], ctx: Context) -> Any:
            if len(self.runs) < 6:
                raise RetryAfter(wait / 10 if len(self.runs) > 1 else wait)
            assert ctx.attempt == 1
            return await echo(message, ctx)

        sdk = await self.worker(busy)
        handle = await sdk.publish(self.topic, "patient")
        assert await handle.result(timeout=self.timing.deadline) == "patient"
        first, second = self.runs[:2]
        assert second.begin - first.begin >= wait * 0.95
        assert [run.attempt for run in self.runs] == [1] * 6

    async def test_d9_what_cannot_be_decoded_is_a_dead_letter(self) -> None:
        """Bytes that are no event end as a dead letter with those bytes, without a run; others go on.

        Trouble-shooting: no exception of one event may stop the loop that reads.
        """
        sdk = await self.worker()
        for number, body in enumerate([b"\xff\xfenot an event", b"{}", b"[1, 2]", b'{"id": 5}']):
            await self.raw(sdk, f"bad{number}", body)
        handle = await sdk.publish(self.topic, "good")
        assert await handle.result(timeout=self.timing.deadline) == "good"

        async def all_dead() -> bool:
            return len(await sdk.dead_letters(self.topic)) == 4

        await self.until(all_dead, "four dead letters")
        letters = await sdk.dead_letters(self.topic)
        assert {letter["reason"] for letter in letters} == {"undecodable"}
        assert {letter["raw"] for letter in letters} == {"\ufffd\ufffdnot an event", "{}", "[1, 2]", '{"id": 5}'}
        assert [run.event_id for run in self.runs] == [handle.id]

    async def test_d9_unknown_fields_are_kept_and_newer_majors_wait(self) -> None:
        """An event with fields from the future is run with them; one of a newer major version waits.

        Trouble-shooting: it goes to the inbox for a worker that can read it, and health says so.
        """
        seen: list[Any] = []

        async def look(message: dict[str, Any], ctx: Context) -> None:
            seen.append((message["content"], (ctx.event.model_extra or {}).get("colour")))

        sdk = await self.worker(look)
        coloured = json.loads(event_bytes("coloured", self.topic, "x")) | {"colour": "blue", "schema_version": "1.9"}
        newer = json.loads(event_bytes("newer", self.topic, "y")) | {"schema_version": "2.0"}
        await self.raw(sdk, "newer", json.dumps(newer).encode())
        await self.raw(sdk, "coloured", json.dumps(coloured).encode())
        assert await sdk.task("coloured").result(timeout=self.timing.deadline) is None
        assert seen == [("x", "blue")]

        async def waits() -> bool:
            task = await sdk.get_task("newer")
            return task is not None and task["state"] == "submitted" and "next_attempt_at" in task

        await self.until(waits, "the event of a newer major version waits in the inbox")
        assert self.timing.lease < intake.UNREADABLE_DELAY
        assert await sdk.dead_letters(self.topic) == []

    async def test_d10_a_timeout_is_a_failed_attempt(self) -> None:
        """What takes longer than ``timeout`` is cancelled and tried again; the last time it is a dead letter.

        Trouble-shooting: the time-out is the runtime's; the agent sees ``CancelledError``.
        """

        async def slow(message: dict[str, Any], ctx: Context) -> Any:
            if message["content"] == "always" or ctx.attempt == 1:
                await asyncio.sleep(self.timing.deadline)
            return await echo(message, ctx)

        sdk = await self.worker(slow, timeout=self.timing.quiet)
        once, always = await sdk.publish(self.topic, "once"), await sdk.publish(self.topic, "always")
        assert await once.result(timeout=self.timing.deadline) == "once"
        async with self.refusal(TaskFailed) as caught:
            await always.result(timeout=self.timing.deadline)
        assert getattr(caught.error, "reason", None) == "timeout"
        assert any(isinstance(run.error, asyncio.CancelledError) for run in self.runs)

    async def test_d10_a_thread_keeps_its_slot_until_it_returns(self) -> None:
        """A timed-out thread cannot be stopped: its outcome is refused, its slot stays taken meanwhile.

        Trouble-shooting: free the slot when the thread ends, not when its attempt does.
        """
        self.needs_real_time()
        inside, most, attempts = 0, 0, []

        def stubborn(message: dict[str, Any], ctx: Context) -> str:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            attempts.append(ctx.attempt)
            assert message is not None
            time.sleep(self.timing.quiet * 4 if ctx.attempt == 1 else 0)
            inside -= 1
            return f"attempt {ctx.attempt}"

        sdk = self.sdk()
        policy = RetryPolicy(max_attempts=3, initial=0.01, max=0.01)
        config = SubscriptionConfig(lease=self.timing.lease, max_concurrency=1, timeout=self.timing.quiet, retry=policy)
        sdk.add_agent(AgentConfig(topic=self.topic, name="agent", callback=stubborn, config=config))
        await sdk.start()
        handle = await sdk.publish(self.topic, "x")
        assert await handle.result(timeout=self.timing.deadline) == "attempt 2"
        assert (most, attempts) == (1, [1, 2])

    async def test_d11_a_crash_loop_ends_as_a_dead_letter(self) -> None:
        """An event whose starts keep vanishing is given up on after ``max_attempts`` + 3, its neighbours run.

        Trouble-shooting: the store counts starts; a suspect runs alone.
        """
        gate = asyncio.Event()

        async def deadly(message: dict[str, Any], ctx: Context) -> Any:
            if message["content"] == "deadly":
                await gate.wait()
            return await echo(message, ctx)

        policy = RetryPolicy(max_attempts=1)
        lease = self.timing.lease / 2
        observer = self.sdk()
        sdk = await self.worker(deadly, retry=policy, lease=lease)
        bad = await observer.publish(self.topic, "deadly")
        for number in range(1, 5):
            await self.until(partial(self.started, bad.id, number), f"start {number}", self.takeover() * 2)
            await self.vanish(sdk)
            sdk = await self.worker(deadly, retry=policy, lease=lease)
        async with self.refusal(TaskFailed) as caught:
            await observer.task(f"{bad.id}:agent").result(timeout=self.takeover() * 2)
        assert getattr(caught.error, "reason", None) == "crash_loop"
        good = await observer.publish(self.topic, "good")
        assert await observer.task(f"{good.id}:agent").result(timeout=self.timing.deadline) == "good"
        assert self.starts(bad.id) == 4

    async def started(self, event_id: str, times: int) -> bool:
        """Return whether an event was started that often."""
        return self.starts(event_id) >= times

    async def test_d13_an_expired_event_is_rejected(self) -> None:
        """An event past ``expires_at`` is not run; its task is ``rejected``.

        Trouble-shooting: look at the time after the claim, before the start.
        """
        sdk = self.sdk()
        handle = await sdk.publish(self.topic, "stale", expires_at=self.clock.time() - 1)
        fresh = await sdk.publish(self.topic, "fresh", expires_at=self.clock.time() + 3600)
        self.serve(sdk)
        await sdk.start()
        async with self.refusal(TaskRejected):
            await handle.result(timeout=self.timing.deadline)
        assert await fresh.result(timeout=self.timing.deadline) == "fresh"
        assert self.starts(handle.id) == 0

    async def test_p6_a_result_that_is_too_large_is_a_dead_letter(self) -> None:
        """A result above ``max_event_bytes``, or one that JSON cannot hold, is given up on, not retried.

        Trouble-shooting: check before settling; the reason says what was wrong.
        """

        async def wrong(message: dict[str, Any], ctx: Context) -> Any:
            assert ctx.attempt == 1
            return {"large": "x" * 5000, "set": {1, 2}, "nan": float("nan")}[message["content"]]

        sdk = await self.worker(wrong, settings={"max_event_bytes": 4096})
        reasons = {}
        for content in ("large", "set", "nan"):
            handle = await sdk.publish(self.topic, content)
            async with self.refusal(TaskFailed) as caught:
                await handle.result(timeout=self.timing.deadline)
            reasons[content] = getattr(caught.error, "reason", None)
        assert reasons == {"large": "too_large", "set": "unserializable_result", "nan": "unserializable_result"}

    async def test_q1_dead_letters_are_listed_and_purged(self) -> None:
        """Dead letters are listed with their events, and removed by id or filter.

        Trouble-shooting: a filter never reaches another agent's letters.
        """
        sdk, letters = await self.letters(3)
        assert await sdk.purge_dead_letters([f"{letters[0]}:agent"]) == 1
        assert {letter["task_id"] for letter in await sdk.dead_letters(self.topic)} == set(letters[1:])
        assert await sdk.purge_dead_letters(topic="another.topic") == 0
        assert await sdk.purge_dead_letters(topic=self.topic, reason="max_attempts") == 2
        assert await sdk.dead_letters(self.topic) == []

    async def letters(self, count: int, broken: list[bool] | None = None) -> tuple[Any, list[str]]:
        """Return an SDK and the event ids of dead letters; the agent fails while ``broken`` says so."""
        broken = [True] if broken is None else broken

        async def fails(message: dict[str, Any], ctx: Context) -> Any:
            if broken[0]:
                raise ValueError("broken")
            return [await echo(message, ctx), ctx.attempt]

        sdk = await self.worker(fails, retry=RetryPolicy(max_attempts=1))
        handles = await self.publish(sdk, count)
        await self.all_done(sdk, handles)
        return sdk, [handle.id for handle in handles]

    async def test_q2_a_replay_runs_once_for_that_agent(self) -> None:
        """A replayed dead letter is run again from attempt 1, once, with its history, by its own agent only.

        Trouble-shooting: the replay is a decision on the record, not a publish.
        """
        broken = [True]
        sdk, letters = await self.letters(2, broken)
        broken[0] = False
        ids = [f"{letter}:agent" for letter in letters]
        answers = await asyncio.gather(*(sdk.replay_dead_letters(topic=self.topic) for _ in range(3)))
        assert sum(answers) >= 2
        for name in ids:
            value = await sdk.task(name).result(timeout=self.timing.deadline)
            assert value[1] == 1, "a replay begins with fresh attempts"
        await self.sleep(self.timing.quiet)
        assert [self.starts(letter) for letter in letters] == [2, 2]
        task = await sdk.get_task(ids[0])
        assert task is not None
        assert task["history"][0]["error_type"] == "ValueError"
        assert task["generation"] > 0
        assert await sdk.dead_letters(self.topic) == []

    async def test_q4_health_counts_dead_letters(self) -> None:
        """From ``max_dead_letters`` on health is degraded and says what to do.

        Trouble-shooting: they are counted, never trimmed.
        """
        _, letters = await self.letters(3)
        sdk = self.sdk(max_dead_letters=3)
        health = await sdk.health()
        assert health["status"] == "degraded"
        assert any("3 dead letters" in warning for warning in health["warnings"]), health["warnings"]
        await sdk.purge_dead_letters([f"{letters[0]}:agent"])
        assert not any("dead letters" in warning for warning in (await sdk.health())["warnings"])
