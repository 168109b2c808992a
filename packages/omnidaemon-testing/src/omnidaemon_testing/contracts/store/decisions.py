"""Rules C2, Q1 to Q4, R6, H2 and M7: what is decided about a run from outside."""

from __future__ import annotations

import asyncio

from omnidaemon.model.run import GrantKind, Group, TaskState
from omnidaemon.ports.store import Decision, Query, Store
from omnidaemon_testing.content import corner_bytes
from omnidaemon_testing.contracts.store.base import HANDBACK, RETRY, WAIT, StoreBase, event_ids, same_json

__all__ = ["DecisionRules"]


class DecisionRules(StoreBase):
    """Cancel, answer, replay, rerun: a compare-and-set each."""

    async def decide(
        self, store: Store, verb: str, group: Group, op: str, event_id: str = "e1", **fields: object
    ) -> str:
        """Apply a decision."""
        return await store.decide(Decision(verb, group, event_id, op, **fields))  # type: ignore[arg-type]

    # --- C2 -------------------------------------------------------------------------------------------

    async def test_c2_cancelling_ends_a_run_wherever_it_is(self) -> None:
        """A run that works, waits for its retry or lies in the inbox is cancelled at once.

        Trouble-shooting: its claim, its due time and its place in the inbox go in the same step.
        """
        store, group = await self.open_with()
        working = await self.granted(store, group, "working")
        await self.settled(store, group, await self.granted(store, group, "retry"), RETRY, attempt=2, delay=0)
        await self.adopted(store, group, "inbox")
        for name in ("working", "retry", "inbox"):
            assert await self.decide(store, "cancel", group, f"op-{name}", name) == "done"
            assert (await self.must_have(store, group, name)).state is TaskState.CANCELED
            await self.refused(store, group, GrantKind.CANCELED, name)
            assert await self.adopted(store, group, name)
        assert await self.due(store, group) == []
        assert await store.renew([self.hold(group, working)]) == [False]
        assert not await self.settle(store, group, working, result=b"1")
        assert (await self.must_have(store, group, "working")).result is None

    async def test_c2_a_cancel_waits_for_a_run_that_nobody_has_met(self) -> None:
        """Cancelled before it was met, a run is never granted: the mark lives until then.

        Trouble-shooting: a decision on an unknown run makes its record.
        """
        store, group = await self.open_with()
        assert await self.decide(store, "cancel", group, "op1") == "done"
        await self.refused(store, group, GrantKind.CANCELED)
        assert (await self.must_have(store, group)).state is TaskState.CANCELED

    async def test_c2_the_first_of_cancel_and_settle_wins(self) -> None:
        """Whichever comes first is the outcome, and the other side learns it.

        Trouble-shooting: both compare the state in the step that writes it.
        """
        store, group = await self.open_with()
        other = await self.open()
        for number in range(20):
            name = f"e{number}"
            grant = await self.granted(store, group, name)
            # The gathered order decides who is sent first; both orders are tried.
            calls = [
                self.settle(store, group, grant, result=b"1"),
                self.decide(other, "cancel", group, f"op{number}", name),
            ]
            if number % 2:
                cancelled, settled = await asyncio.gather(*reversed(calls))
            else:
                settled, cancelled = await asyncio.gather(*calls)
            state = (await self.must_have(store, group, name)).state
            expected = (True, "completed") if state is TaskState.COMPLETED else (False, "done")
            assert (settled, cancelled) == expected, f"{name} is {state}"

    async def test_c2_a_finished_run_is_not_cancelled(self) -> None:
        """Cancelling what has ended answers with its state, or ``finished`` when its record is gone.

        Trouble-shooting: a done mark without a record is an end too.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group, "done"))
        await self.dead(store, group, "dead")
        await self.settled(store, group, await self.granted(store, group, "old"), ttl=0.02)
        await self.sleep(0.05)
        answers = [await self.decide(store, "cancel", group, "op1", name) for name in ("done", "dead", "old")]
        assert answers == ["completed", "failed", "finished"]
        assert (await self.must_have(store, group, "dead")).dead == "max_attempts"

    async def test_m7_a_repeated_decision_changes_nothing(self) -> None:
        """The same operation id again gives the same answer and no second effect.

        Trouble-shooting: keep the id of the last operation with the run.
        """
        store, group = await self.open_with()
        for _ in range(2):
            assert await self.decide(store, "cancel", group, "op1", "gone") == "done"
        assert (await self.counts(store, group)).get("canceled") == 1
        await self.dead(store, group)
        for _ in range(2):
            assert await self.decide(store, "replay", group, "op2") == "done"
        grants = await self.due(store, group)
        assert len(grants) == 1
        assert await self.decide(store, "replay", group, "op2") == "done"
        assert await self.due(store, group) == []
        await self.settled(store, group, grants[0], state=TaskState.FAILED, dead="max_attempts", body=None)
        assert await self.decide(store, "replay", group, "op2") == "done"
        assert await self.due(store, group) == [], "a replay that was repeated late ran the dead letter again"

    async def test_m7_generations_are_never_used_twice(self) -> None:
        """Each replay, rerun and answer opens a generation that the group never had.

        Trouble-shooting: a counter of the group, never "the highest there is, plus one".
        """
        store, group = await self.open_with()
        seen = [0]
        for name in ("e1", "e2"):
            await self.dead(store, group, name)
        for number in range(3):
            for name in ("e1", "e2"):
                assert await self.decide(store, "replay", group, f"op{number}{name}", name) == "done"
                grant = await self.due_one(store, group)
                seen.append(grant.generation)
                await self.settled(store, group, grant, state=TaskState.FAILED, dead="max_attempts", body=None)
            await store.remove(Query(topic=group.topic, agent=group.agent, event_ids=["e2"]))
            assert await self.decide(store, "rerun", group, f"again{number}", "e2", body=self.body("e2")) == "done"
            grant = await self.due_one(store, group)
            seen.append(grant.generation)
            await self.settled(store, group, grant, state=TaskState.FAILED, dead="max_attempts", body=None)
        assert seen == sorted(set(seen)), f"generations came twice or out of order: {seen}"

    # --- Q1 to Q4 ---------------------------------------------------------------------------------------

    async def test_q1_dead_letters_are_listed_and_purged(self) -> None:
        """Dead letters can be listed, looked at and removed, by id or by filter, and nothing else with them.

        Trouble-shooting: ``dead=True`` in a query means "has a reason", not "has failed".
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        for name in ("d1", "d2", "d3"):
            await self.dead(store, first, name, tenant="acme" if name == "d1" else None)
        await self.dead(store, second, "d1")
        failed = await self.granted(store, first, "failed")
        await self.settled(store, first, failed, state=TaskState.FAILED)
        page = await store.records(Query(agent="first", dead=True))
        assert sorted(event_ids(page.items)) == ["d1", "d2", "d3"]
        assert {(record.state, record.dead) for record in page.items} == {(TaskState.FAILED, "max_attempts")}
        assert event_ids((await store.records(Query(agent="first", dead=True, tenant="acme"))).items) == ["d1"]
        assert await store.remove(Query(agent="first", dead=True, event_ids=["d2", "unknown"])) == 1
        assert await store.remove(Query(agent="first", dead=True)) == 2
        assert (await store.records(Query(agent="first", dead=True))).items == []
        assert event_ids((await store.records(Query(dead=True))).items) == ["d1"]
        assert (await self.must_have(store, first, "failed")).state is TaskState.FAILED

    async def test_q2_a_replay_runs_once_with_fresh_attempts(self) -> None:
        """A replayed dead letter is due at once for that agent only: attempt 1, next generation, its history kept.

        Trouble-shooting: the dead letter IS the run's record; do not publish the event again.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        grant = await self.granted(store, first)
        await self.settled(store, first, grant, RETRY, attempt=2, delay=0)
        again = await self.due_one(store, first)
        await self.settled(
            store, first, again, state=TaskState.FAILED, dead="max_attempts", data=b'{"history":[1,2]}', body=None
        )
        assert await self.decide(store, "replay", first, "op1") == "done"
        record = await self.must_have(store, first)
        assert (record.state, record.dead) == (TaskState.SUBMITTED, None)
        assert await self.decide(store, "replay", first, "op2") == "submitted", "it is no dead letter any more"
        assert await self.due(store, second) == []
        grants = await self.due(store, first)
        assert len(grants) == 1
        assert (grants[0].attempt, grants[0].lost, grants[0].data) == (1, 0, b'{"history":[1,2]}')
        assert grants[0].generation > grant.generation
        assert grants[0].body == self.body()
        assert await self.decide(store, "replay", first, "op3", "never met") == "unknown"
        await self.settled(store, first, grants[0], result=b"1", body=None)
        assert await self.decide(store, "replay", first, "op4") == "completed"

    async def test_q2_racing_replays_run_once(self) -> None:
        """Of several replays of one dead letter at the same time, one is done.

        Trouble-shooting: compare the state and open the generation in one step.
        """
        store, group = await self.open_with()
        other = await self.open()
        await self.dead(store, group)
        calls = [self.decide((store, other)[number % 2], "replay", group, f"op{number}") for number in range(10)]
        assert (await asyncio.gather(*calls)).count("done") == 1
        assert len(await self.due(store, group)) == 1

    async def test_q3_the_dead_letter_is_part_of_the_settle(self) -> None:
        """A refused outcome leaves no dead letter; an accepted one leaves it with event and data.

        Trouble-shooting: it is a field of the record, written in the settling step.
        """
        store, group = await self.open_with()
        late = await self.granted(store, group, lease=0.02)
        await self.sleep(0.05)
        owner = await self.granted(store, group, worker="w2")
        assert not await self.settle(store, group, late, state=TaskState.FAILED, dead="max_attempts")
        assert (await store.records(Query(dead=True))).items == []
        await self.settled(
            store,
            group,
            owner,
            state=TaskState.FAILED,
            dead="undecodable",
            data=corner_bytes(),
            body=b"\xff\xfe\x00raw",
        )
        letter = await self.must_have(store, group)
        assert event_ids((await store.records(Query(dead=True))).items) == ["e1"]
        assert (letter.dead, letter.body) == ("undecodable", b"\xff\xfe\x00raw")
        assert same_json(letter.data, corner_bytes())
        await self.refused(store, group, GrantKind.FINISHED)

    async def test_q4_dead_letters_never_expire(self) -> None:
        """A dead letter outlives any ``ttl``; nothing removes it but a command.

        Trouble-shooting: no expiry on records with a reason, not even an index's.
        """
        store, group = await self.open_with()
        await self.dead(store, group, ttl=0.02, mark_ttl=0.02)
        await self.sleep(0.1)
        await store.forget(group, await store.now() + 60)
        assert (await self.must_have(store, group)).dead == "max_attempts"
        assert (await store.count(group))["dead_letters"] == 1
        assert await self.decide(store, "replay", group, "op1") == "done"
        assert len(await self.due(store, group)) == 1

    # --- R6 and H2 ----------------------------------------------------------------------------------------

    async def test_r6_an_answer_reopens_the_run_that_asked(self) -> None:
        """An answer to the waiting question opens the next generation; it is found by the next attempt.

        Trouble-shooting: the answer is kept with the run as ``answer:<question>``.
        """
        store, group = await self.open_with()
        grant = await self.granted(store, group)
        await self.settled(store, group, grant, WAIT, question="ship?", data=b'{"asked":1}')
        record = await self.must_have(store, group)
        assert (record.state, record.question) == (TaskState.INPUT_REQUIRED, "ship?")
        assert (await store.count(group))["waiting"] == 1
        assert await self.due(store, group) == []
        await self.refused(store, group, GrantKind.HELD)
        assert await self.decide(store, "answer", group, "op1", question="other?", value=b"1") == "stale"
        assert await self.decide(store, "answer", group, "op2", "unmet", question="ship?", value=b"1") == "unknown"
        assert await self.decide(store, "answer", group, "op3", question="ship?", value=corner_bytes()) == "done"
        assert await self.decide(store, "answer", group, "op4", question="ship?", value=b"no") == "stale"
        assert await self.decide(store, "answer", group, "op3", question="ship?", value=b"no") == "done"
        again = await self.due_one(store, group)
        assert (again.attempt, again.data, again.body) == (grant.attempt, b'{"asked":1}', self.body())
        assert again.generation > grant.generation
        assert same_json((await store.notes(group, "e1"))["answer:ship?"], corner_bytes())
        await self.settled(store, group, again, body=None)
        assert await self.decide(store, "answer", group, "op5", question="ship?", value=b"1") == "stale"

    async def test_r6_an_unanswered_question_comes_due(self) -> None:
        """A question with a time limit is handed out after it, still ``input_required``, and is late to answer.

        Trouble-shooting: the grant tells the state the record had before it.
        """
        store, group = await self.open_with()
        await self.settled(store, group, await self.granted(store, group), WAIT, question="ship?", delay=0.05)
        grant = (await self.until_due(store, group))[0]
        assert grant.state is TaskState.INPUT_REQUIRED
        assert await self.decide(store, "answer", group, "op1", question="ship?", value=b"1") == "stale"
        await self.settled(store, group, grant, HANDBACK, body=None)
        assert (await self.must_have(store, group)).state is TaskState.INPUT_REQUIRED

    async def test_h2_a_rerun_opens_what_is_finished_or_unmet(self) -> None:
        """History replay puts an event into one agent's inbox anew; a live run answers ``busy``.

        Trouble-shooting: notes, attempts and result of the earlier run do not belong to the new one.
        """
        store, groups = await self.open_with("first", "second")
        first, second = groups
        grant = await self.granted(store, first, "done")
        await store.note(self.hold(first, grant), "step", b"1")
        await self.settled(store, first, grant, result=b'"old"')
        await self.granted(store, first, "live")
        answers = [
            await self.decide(store, "rerun", first, f"op-{name}", name, body=self.body(name), data=b'{"why":1}')
            for name in ("done", "unmet", "live")
        ]
        assert answers == ["done", "done", "busy"]
        assert await self.decide(store, "rerun", first, "op-done", "done", body=self.body("done")) == "done"
        assert await self.due(store, second) == []
        grants = {grant.event_id: grant for grant in await self.due(store, first)}
        assert sorted(grants) == ["done", "unmet"]
        for name, again in grants.items():
            assert (again.attempt, again.data, again.body) == (1, b'{"why":1}', self.body(name))
            assert again.generation > 0
        assert await store.notes(first, "done") == {}
        assert (await self.must_have(store, first, "done")).result is None

    async def test_c3_a_decision_on_an_ended_epoch_is_gone(self) -> None:
        """Nothing is decided about runs of an agent that was deleted with its group.

        Trouble-shooting: look at the agent's row in the deciding step.
        """
        store, group = await self.open_with()
        await self.dead(store, group)
        await store.retire(group.topic, group.agent, group=True, dead_letters=False)
        assert await self.decide(store, "replay", group, "op1") == "gone"
        assert await self.decide(store, "cancel", group, "op2", "unmet") == "gone"
