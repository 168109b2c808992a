"""The suite can fail: each backend here differs from the memory adapter by one method, and breaks one rule.

Each is put through its whole contract, in virtual time. It must fail the rule that it breaks, and
fail nothing but that rule and those which rest on it, always by an assertion.
"""

import asyncio
import json
from dataclasses import replace

import pytest

from omnidaemon.model.run import GrantKind, OutcomeKind, Start, TaskState
from omnidaemon.ports.store import Due, Page, Versioned
from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing import EventBusContract, StoreContract
from omnidaemon_testing._judging import judge, rule_of
from omnidaemon_testing._virtual import LoopClock

BROKEN = []


def breaks(test, touches=""):
    """Register a broken backend: the test it must fail, and the rules that cannot hold without it."""

    def register(backend):
        BROKEN.append(pytest.param(backend, test, {rule_of(test), *touches.split()}, id=backend.__name__))
        return backend

    return register


class Bus(MemoryEventBus):
    """The memory bus, as the contract makes it."""

    @classmethod
    def at(cls, brokers, namespace, **settings):
        return cls(brokers.setdefault(namespace, MemoryBroker()), clock=LoopClock(), **settings)


class Store(MemoryStore):
    """The memory store, as the contract makes it."""

    @classmethod
    def at(cls, tables, namespace):
        return cls(tables.setdefault(namespace, MemoryTables()), clock=LoopClock())

    def rows(self):
        """The runs as they are stored: not to be changed."""
        return list(self.data._runs._rows.values())


# --- buses ------------------------------------------------------------------------------------------


@breaks("test_d1_only_an_acknowledgement_finishes", "D3 D4 D12 L1 P7 T1")
class AcknowledgesEarly(Bus):
    async def read(self, want, wait):
        got = await super().read(want, wait)
        if self._reader:
            self.broker.ack(got)
        return got


@breaks("test_d1_only_an_acknowledgement_finishes")
class DropsOnCrash(Bus):
    async def close(self):
        for topic in self.broker._topics.values():
            for group in topic.groups.values():
                for position, hand in list(group.pending.items()):
                    if hand.reader == self._reader:
                        group.finish(position)
        await super().close()


@breaks("test_p3_members_of_a_group_share", "D3 D4")
class HandsOneEventToTwoOwners(Bus):
    async def read(self, want, wait):
        got = await super().read(want, 0)
        states = [(group, topic.groups.get(group)) for group in want for topic in self.broker._topics.values()]
        stolen = [
            self.broker._delivery(group, state, hand.entry)
            for group, state in states
            if state is not None
            for hand in list(state.pending.values())[: want[group]]
            if hand.reader != self._reader
        ]
        return got or stolen or await super().read(want, wait)


@breaks("test_d3_a_dead_reader_s_events_move_in_time")
class ReclaimsEarly(Bus):
    @classmethod
    def at(cls, brokers, namespace, **settings):
        return super().at(brokers, namespace, **{**settings, "lease": settings["lease"] / 2})


@breaks("test_d3_a_dead_reader_s_events_move_in_time", "D1")
class ReclaimsLate(Bus):
    @classmethod
    def at(cls, brokers, namespace, **settings):
        return super().at(brokers, namespace, **{**settings, "lease": settings["lease"] * 4})


@breaks("test_d1_only_an_acknowledgement_finishes", "D3 D4")
class ReclaimsNever(Bus):
    @classmethod
    def at(cls, brokers, namespace, **settings):
        return super().at(brokers, namespace, **{**settings, "lease": 1e9})


@breaks("test_d2_a_read_keeps_to_its_want", "D12 H2 P2 P7 T1")
class IgnoresTheWant(Bus):
    async def read(self, want, wait):
        return await super().read({group: limit + 1 for group, limit in want.items()}, wait)


@breaks("test_p7_trimming_spares_what_a_group_has_not_finished")
class TrimsWhatIsUnread(Bus):
    async def trim(self, topic, before):
        state = self.broker._topics[topic]
        kept = [entry for entry in state.entries if entry.published >= before]
        removed, state.entries = len(state.entries) - len(kept), kept
        return removed


@breaks("test_p1_an_awaited_publish_is_durable", "L4")
class FlushesTooLate(Bus):
    async def close(self):
        if self._reader:
            for topic in self.broker._topics.values():
                topic.entries = [entry for entry in topic.entries if entry.published < self._clock.time() - 0.01]
        await super().close()


@breaks("test_p1_bodies_come_back_byte_for_byte")
class ChangesANumber(Bus):
    async def publish(self, batch, timeout):
        def mend(body):
            try:
                event = json.loads(body)
                if isinstance(event["payload"]["content"].get("large float"), float):
                    event["payload"]["content"]["large float"] = 10**22
                    return json.dumps(event).encode()
            except (ValueError, TypeError, KeyError, AttributeError):
                pass
            return body

        return await super().publish([replace(event, body=mend(event.body)) for event in batch], timeout)


@breaks("test_c3_deleting_a_group_leaves_the_others", "PORT")
class ResurrectsADeletedGroup(Bus):
    async def read(self, want, wait):
        for group in want:
            self.broker.ensure(group.topic, {group: Start("beginning")})
        return await super().read(want, wait)


@breaks("test_t3_namespaces_never_meet")
class MixesPrefixes(Bus):
    @classmethod
    def at(cls, brokers, namespace, **settings):
        return super().at(brokers, namespace.rstrip("2"), **settings)


@breaks("test_p2_a_group_can_start_now", "C3")
class StartsAtTheBeginning(Bus):
    async def ensure(self, topic, groups):
        await super().ensure(topic, {group: Start("beginning") for group in groups})


@breaks("test_p2_making_a_group_again_keeps_its_position")
class MovesAGroupThatIsThere(Bus):
    async def ensure(self, topic, groups):
        for group in groups:
            await self.delete(group)
        await super().ensure(topic, groups)


@breaks("test_h1_history_gives_everything_in_order")
class PagesHistoryWrongly(Bus):
    async def history(self, topic, start, end):
        number = 0
        async for entry in super().history(topic, start, end):
            number += 1
            if number % 500:
                yield entry


@breaks("test_h2_reading_history_moves_no_group")
class ReadsHistoryThroughAGroup(Bus):
    async def history(self, topic, start, end):
        async for entry in super().history(topic, start, end):
            for state in self.broker._topics[topic].groups.values():
                state.cursor = max(state.cursor, int(entry[0]))
            yield entry


@breaks("test_l1_what_is_given_back_is_there_at_once", "P7")
class GivesBackNothing(Bus):
    async def give_back(self, batch):
        self._opened(f"give_back of {len(batch)}")


@breaks("test_d4_extending_keeps_a_delivery", "C3")
class ExtendsInWordsOnly(Bus):
    async def extend(self, batch):
        return [True for _ in batch]


@breaks("test_d1_acknowledged_events_never_come_again")
class AcknowledgesAllBefore(Bus):
    async def ack(self, batch):
        for delivery in batch:
            for position in [at for at in delivery.tag.state.pending if at <= delivery.tag.position]:
                delivery.tag.state.finish(position)


@breaks("test_port_a_waiting_read_wakes_for_an_event")
class SleepsThroughItsWait(Bus):
    async def read(self, want, wait):
        got = await super().read(want, 0)
        if got or not wait:
            return got
        reader = self._reader
        for _ in range(20):
            if self._reader == reader:
                await asyncio.sleep(wait / 20)
        return await super().read(want, 0) if self._reader else []


@breaks("test_port_a_read_of_nothing_ends_empty_after_its_wait")
class NeverWaits(Bus):
    async def read(self, want, wait):  # noqa: ARG002
        return await super().read(want, 0)


@breaks("test_d12_events_of_a_key_keep_their_order")
class ForgetsThePredecessor(Bus):
    async def read(self, want, wait):
        return [replace(delivery, after=None) for delivery in await super().read(want, wait)]


@breaks("test_t1_info_tells_what_is_so")
class CountsTheLagWrong(Bus):
    async def info(self, topic):
        info = await super().info(topic)
        for group in info.groups:
            group.lag = replace(group.lag, value=group.lag.value + 1)
        return info


@breaks("test_l3_nothing_outlives_close")
class LeavesATask(Bus):
    async def open(self):
        await super().open()
        self.task = asyncio.create_task(asyncio.sleep(3600))


@breaks("test_p8_after_a_failure_its_key_is_not_attempted")
class OvertakesAFailure(Bus):
    async def publish(self, batch, timeout):
        return [
            outcome for event in batch for outcome in await super(OvertakesAFailure, self).publish([event], timeout)
        ]


@breaks("test_p7_a_full_topic_refuses_until_it_is_worked_off")
class MakesRoomByDropping(Bus):
    async def publish(self, batch, timeout):
        outcomes = await super().publish(batch, timeout)
        if self._topic_max_bytes and any(isinstance(outcome, Exception) for outcome in outcomes):
            for event in batch:
                self.broker._topics[event.topic].entries.pop(0)
            return await super().publish(batch, timeout)
        return outcomes


@breaks("test_m8_epochs_are_groups_of_their_own")
class ForgetsTheEpoch(Bus):
    async def ensure(self, topic, groups):
        known = self.broker._topics.get(topic)
        await super().ensure(topic, groups)
        state = self.broker._topics[topic]
        for group in groups:
            first = next((one for one in state.groups if one[:2] == group[:2]), group)
            state.groups[group] = state.groups[first]
        assert known is None or known is state


@breaks("test_l3_a_closed_bus_refuses")
class WorksWhileClosed(Bus):
    def _opened(self, operation):  # noqa: ARG002
        return self._reader or "nobody"


# --- stores -----------------------------------------------------------------------------------------


@breaks("test_s3_a_claim_has_one_winner", "D4 D12 L4 M1 M3 M5 M10 M14 S7")
class GrantsToTwoWinners(Store):
    async def claim(self, worker, asks):
        for ask in asks:
            row = self.data.run(ask.group.topic, ask.group.agent, ask.event_id)
            if row is not None and row.token and not row.inbox:
                row.token = None
                self.data.put_run(row)
        return await super().claim(worker, asks)


@breaks("test_s3_a_token_is_never_given_twice", "D3 D12 M1 M7 M10 Q2")
class GivesATokenTwice(Store):
    async def due(self, worker, call, want):
        answer = await super().due(worker, call, want)
        for group, grants in answer.grants.items():
            for grant in grants:
                row = self.data.run(group.topic, group.agent, grant.event_id)
                row.token = grant.token = f"of {grant.event_id}"
                self.data.put_run(row)
        return answer


@breaks("test_s3_a_claim_holds_for_its_lease", "D4 D5 D12 D18 M3 M10 M14 Q3")
class ReclaimsClaimsLate(Store):
    async def claim(self, worker, asks):
        return await super().claim(worker, [replace(ask, lease=ask.lease * 10 + 1) for ask in asks])


@breaks("test_d3_the_inbox_hands_out_what_a_dead_worker_held", "D11 D15 M10 M14 S3")
class ReclaimsClaimsNever(Store):
    async def due(self, worker, call, want):
        return await super().due(worker, call, {group: replace(wish, takeover=False) for group, wish in want.items()})


@breaks("test_d4_only_a_definite_loss_is_a_loss", "M5")
class TakesExpiredForLost(Store):
    async def renew(self, holds):
        now = await self.now()
        rows = [self.data.run(hold.group.topic, hold.group.agent, hold.event_id) for hold in holds]
        answers = await super().renew(holds)
        return [answer and row.lease_until > now for answer, row in zip(answers, rows, strict=True)]


@breaks("test_d5_a_late_finisher_is_fenced", "D15 D18 M1 M3 Q3")
class ForgetsTheFence(Store):
    async def settle(self, outcomes):
        for outcome in outcomes:
            row = self.data.run(outcome.group.topic, outcome.group.agent, outcome.event_id)
            if row is not None and row.token:
                outcome.token = row.token
        return await super().settle(outcomes)


@breaks("test_s9_a_repeated_settle_changes_nothing", "M1 T2")
class SettlesTwice(Store):
    async def settle(self, outcomes):
        repeated = []
        for outcome in outcomes:
            row = self.data.run(outcome.group.topic, outcome.group.agent, outcome.event_id)
            repeated.append(row is not None and row.spent == outcome.token)
        answers = await super().settle(outcomes)
        for outcome, again in zip(outcomes, repeated, strict=True):
            if again:
                self.data.add_counts(outcome.group.topic, outcome.group.agent, 0, outcome.counts)
        return answers


@breaks("test_d6_a_retry_is_due_when_it_says")
class RetriesEarly(Store):
    async def settle(self, outcomes):
        return await super().settle([replace(one, delay=one.delay * 0.5) if one.delay else one for one in outcomes])


@breaks("test_d6_a_retry_is_due_when_it_says")
class RetriesLate(Store):
    async def settle(self, outcomes):
        return await super().settle(
            [
                replace(one, delay=one.delay + 3)
                if one.kind is OutcomeKind.RETRY and one.delay and one.delay > 0.1
                else one
                for one in outcomes
            ]
        )


@breaks("test_p5_a_delayed_event_is_relayed_when_it_is_due")
class DelaysTooLittle(Store):
    async def defer(self, rows):
        return await super().defer(
            [replace(row, delay=row.delay / 2, deliver_at=row.deliver_at and row.deliver_at - 0.3) for row in rows]
        )


@breaks("test_p5_a_delayed_event_is_relayed_when_it_is_due")
class DelaysTooMuch(Store):
    async def defer(self, rows):
        return await super().defer(
            [
                replace(
                    row,
                    delay=row.delay + 3 if row.delay > 0.1 else row.delay,
                    deliver_at=row.deliver_at and row.deliver_at + 3,
                )
                for row in rows
            ]
        )


@breaks("test_q3_the_dead_letter_is_part_of_the_settle", "C2 C3 M7 M9 Q1 Q2 Q4 S4 T2")
class LosesADeadLetter(Store):
    async def settle(self, outcomes):
        return await super().settle([replace(one, dead=None) for one in outcomes])


@breaks("test_q4_dead_letters_never_expire")
class LetsDeadLettersExpire(Store):
    async def forget(self, group, before):
        for row in self.rows():
            if row.dead:
                self.data.drop_run(row)
        return await super().forget(group, before)


@breaks("test_t2_counts_are_exact", "M1 M7 S5 S7 S9 T3")
class CountsWrong(Store):
    async def metrics(self, topic=None, agent=None, since=None, until=None):
        rows = await super().metrics(topic, agent, since, until)
        for row in rows:
            row.counts = {name: value + 1 for name, value in row.counts.items()}
        return rows


@breaks("test_t3_namespaces_never_meet")
class MixesPrefixesOfStores(Store):
    @classmethod
    def at(cls, tables, namespace):
        return super().at(tables, namespace.rstrip("2"))


@breaks("test_c1_a_flag_is_kept")
class LosesAPause(Store):
    async def close(self):
        for ns, key in list(self.data._values):
            if ns == "flags":
                self.data.drop_kv(ns, key)
        await super().close()


@breaks("test_m8_registering_after_a_deletion_opens_the_next_epoch", "C3")
class ResurrectsADeletedEpoch(Store):
    async def retire(self, topic, agent, *, group, dead_letters):
        gone = await super().retire(topic, agent, group=group, dead_letters=dead_letters)
        self.data._agents.pop((topic, agent), None)
        return gone


@breaks("test_s8_any_json_comes_back_unchanged", "D1")
class ChangesANumberInAResult(Store):
    async def settle(self, outcomes):
        def mend(result):
            return result and result.replace(b"1e+22", b"10000000000000000000000")

        return await super().settle([replace(one, result=mend(one.result)) for one in outcomes])


@breaks("test_s4_pages_hold_everything_once_newest_first")
class PagesWrongly(Store):
    async def records(self, query, cursor=None, limit=100):
        page = await super().records(query, cursor, limit)
        return Page(page.items[1:] if cursor else page.items, page.cursor)


@breaks("test_s4_pages_stay_right_while_written_to")
class PagesByOffset(Store):
    async def records(self, query, cursor=None, limit=100):
        offset = int(cursor or 0)
        every = (await super().records(query, None, 1_000_000)).items
        return Page(every[offset : offset + limit], str(offset + limit) if len(every) > offset + limit else None)


@breaks("test_s2_an_expired_record_is_never_returned", "C3 P4")
class ReturnsWhatHasExpired(Store):
    async def records(self, query, cursor=None, limit=100):
        page = await super().records(query, cursor, limit)
        now, known = await self.now(), {item.event_id for item in page.items}
        late = [row.record() for row in self.rows() if row.expires and row.expires <= now and row.event_id not in known]
        wanted = query.event_ids
        return Page([*page.items, *(row for row in late if wanted is None or row.event_id in wanted)], page.cursor)


@breaks("test_m6_marks_are_forgotten_by_command_only")
class ForgetsMarksByTimeAlone(Store):
    async def forget(self, group, before):  # noqa: ARG002
        return await super().forget(group, float("inf"))


@breaks("test_s5_clearing_results_stops_nobody", "P4")
class ForgetsMarksWithResults(Store):
    async def remove(self, query):
        removed = await super().remove(query)
        for group in list(self.data._marks):
            self.data.drop_marks(group, float("inf"), float("inf"))
        return removed


@breaks("test_d12_a_lane_runs_one_at_a_time", "M9 R5 R6")
class IgnoresLanes(Store):
    async def claim(self, worker, asks):
        return await super().claim(worker, [replace(ask, lane=None) for ask in asks])


@breaks("test_m9_an_unmet_predecessor_s_place_is_reserved")
class IgnoresPredecessors(Store):
    async def claim(self, worker, asks):
        return await super().claim(worker, [replace(ask, after=None) for ask in asks])


@breaks("test_m2_adopting_looks_at_what_became_of_the_run", "C2 P4")
class AdoptsWhatIsFinished(Store):
    async def adopt(self, items):
        for item in items:
            row = self.data.run(item.group.topic, item.group.agent, item.event_id)
            if row is not None and row.state.final:
                row.state, row.inbox, row.due, row.expires = TaskState.SUBMITTED, True, await self.now(), None
                self.data.put_run(row)
        return await super().adopt(items)


@breaks("test_m1_a_repeated_claim_gives_the_same_answer")
class MeetsItselfAsBusy(Store):
    async def claim(self, worker, asks):
        owned = [self.data.run(ask.group.topic, ask.group.agent, ask.event_id) for ask in asks]
        grants = await super().claim(worker, asks)
        return [
            replace(grant, kind=GrantKind.BUSY) if row is not None and row.token == ask.token else grant
            for ask, row, grant in zip(asks, owned, grants, strict=True)
        ]


@breaks("test_m1_a_repeated_due_gives_the_same_answer", "M10")
class HandsOutMoreWhenAskedAgain(Store):
    calls = 0

    async def due(self, worker, call, want):
        Store.calls = HandsOutMoreWhenAskedAgain.calls = HandsOutMoreWhenAskedAgain.calls + 1
        return await super().due(worker, f"{call}.{self.calls}", want)


@breaks("test_c2_a_cancel_waits_for_a_run_that_nobody_has_met", "C3 M7")
class ForgetsACancel(Store):
    async def decide(self, decision):
        row = self.data.run(decision.group.topic, decision.group.agent, decision.event_id)
        if decision.verb == "cancel" and row is None and not self.data.mark(decision.group, decision.event_id):
            return "done"
        return await super().decide(decision)


@breaks("test_m7_generations_are_never_used_twice")
class ReusesGenerations(Store):
    async def decide(self, decision):
        self.data._generations.clear()
        return await super().decide(decision)


@breaks("test_m7_a_repeated_decision_changes_nothing", "H2 R6")
class RepeatsADecision(Store):
    calls = 0

    async def decide(self, decision):
        RepeatsADecision.calls += 1
        return await super().decide(replace(decision, op=f"{decision.op}.{self.calls}"))


@breaks("test_r6_an_answer_reopens_the_run_that_asked")
class TakesAnyAnswer(Store):
    async def decide(self, decision):
        row = self.data.run(decision.group.topic, decision.group.agent, decision.event_id)
        if decision.verb == "answer" and row is not None and row.question:
            decision = replace(decision, question=row.question)
        return await super().decide(decision)


@breaks("test_c4_the_values_of_one_write_are_seen_together")
class WritesFlagsOneByOne(Store):
    async def put(self, ns, items):
        answers = []
        for item in items:
            answers += await super().put(ns, [item])
            await asyncio.sleep(0)
        return answers


@breaks("test_s1_a_write_can_expect_a_version")
class IgnoresTheExpectedVersion(Store):
    async def put(self, ns, items):
        return await super().put(ns, [replace(item, expect=None) for item in items])


@breaks("test_s4_a_namespace_is_paged_by_key")
class ScansUnsorted(Store):
    async def scan(self, ns, cursor=None, limit=1000):
        page = await super().scan(ns, cursor, limit)
        return Page[Versioned](page.items[::-1], page.cursor)


@breaks("test_r4_progress_is_an_ordered_stream", "D5")
class AppendsForAnybody(Store):
    async def append(self, hold, chunks, keep):
        row = self.data.run(hold.group.topic, hold.group.agent, hold.event_id)
        for chunk in chunks:
            row.chunks += 1
            self.data.add_chunk(row, row.chunks, chunk, await self.now() + keep)
        self.data.put_run(row)
        return True


@breaks("test_m11_a_row_is_leased_to_one_relay", "P5 S12")
class LeasesRowsToEveryRelay(Store):
    async def outbox(self, worker, limit, lease):  # noqa: ARG002
        return await super().outbox(worker, limit, 0)


@breaks("test_s12_a_row_is_kept_until_its_publish_is_confirmed", "M11")
class DropsRowsWhenHandedOut(Store):
    async def outbox(self, worker, limit, lease):
        rows, following = await super().outbox(worker, limit, lease)
        await self.sent(rows)
        return rows, (await super().outbox(worker, 0, lease))[1] if rows else following


@breaks("test_s12_a_failed_row_holds_only_its_key", "P5")
class RelaysWithoutKeys(Store):
    async def defer(self, rows):
        return await super().defer([replace(row, event=replace(row.event, key=None)) for row in rows])


@breaks("test_s12_a_failed_row_holds_only_its_key")
class CallsDueWhatIsHeld(Store):
    async def outbox(self, worker, limit, lease):
        rows, following = await super().outbox(worker, limit, lease)
        now, unsent = await self.now(), self.data._outbox._rows.values()
        return rows, 0.0 if any(row.due <= now and row.leased_until <= now for row in unsent) else following


@breaks("test_c3_results_outlive_their_epoch")
class ForgetsResultsWithTheirEpoch(Store):
    async def retire(self, topic, agent, *, group, dead_letters):
        gone = await super().retire(topic, agent, group=group, dead_letters=dead_letters)
        for row in self.rows():
            if group and row.group.agent == agent:
                self.data.drop_run(row)
        return gone


@breaks("test_d18_a_finished_run_tells_whether_follow_ups_wait", "S10")
class ForgetsUnsentFollowUps(Store):
    async def claim(self, worker, asks):
        return [replace(grant, unsent=False) for grant in await super().claim(worker, asks)]


@breaks("test_d18_follow_ups_are_those_of_accepted_outcomes")
class SendsFollowUpsOfRefusedOutcomes(Store):
    async def settle(self, outcomes):
        answers = await super().settle(outcomes)
        for outcome, accepted in zip(outcomes, answers, strict=True):
            if not accepted:
                await self.defer(list(outcome.outbox))
        return answers


@breaks("test_d11_lost_starts_are_counted", "M3 S3")
class CountsHandBacksAsStarts(Store):
    async def settle(self, outcomes):
        rows = [self.data.run(one.group.topic, one.group.agent, one.event_id) for one in outcomes]
        answers = await super().settle(outcomes)
        for outcome, before, accepted in zip(outcomes, rows, answers, strict=True):
            row = self.data.run(outcome.group.topic, outcome.group.agent, outcome.event_id)
            if accepted and outcome.kind is OutcomeKind.HANDBACK and before.token:
                row.starts, row.lost = row.starts + 1, row.lost + 1
                self.data.put_run(row)
        return answers


@breaks("test_m10_a_suspect_runs_alone")
class HandsSuspectsToAnybody(Store):
    async def due(self, worker, call, want):
        return await super().due(worker, call, {group: replace(wish, alone=True) for group, wish in want.items()})


@breaks("test_m10_a_suspect_runs_alone")
class HidesSuspects(Store):
    async def due(self, worker, call, want):
        answer = await super().due(worker, call, want)
        return Due(answer.grants, frozenset(), answer.next_in)


@breaks("test_t4_the_tenant_reaches_every_query", "Q1 T3")
class IgnoresTheTenant(Store):
    async def records(self, query, cursor=None, limit=100):
        return await super().records(replace(query, tenant=None), cursor, limit)


@breaks("test_m8_registering_after_a_deletion_opens_the_next_epoch")
class LetsStaleWorkersClaim(Store):
    async def claim(self, worker, asks):
        rows = [self.data.agent(ask.group.topic, ask.group.agent) for ask in asks]
        return await super().claim(
            worker,
            [
                replace(ask, group=row.group) if row and not self.data._agents[row.topic, row.agent].deleted else ask
                for ask, row in zip(asks, rows, strict=True)
            ],
        )


@breaks("test_c3_deleting_an_agent_takes_its_work_with_it")
class KeepsTheFollowUpsOfTheDeleted(Store):
    async def retire(self, topic, agent, *, group, dead_letters):
        kept = [self.data._outbox.get(name) for name in list(self.data._outbox._rows)]
        gone = await super().retire(topic, agent, group=group, dead_letters=dead_letters)
        for row in kept:
            self.data.put_outbox(row)
        return gone


@breaks("test_s6_confirmed_writes_outlive_their_writer")
class WritesBehind(Store):
    async def close(self):
        for row in self.rows():
            if row.state is TaskState.COMPLETED:
                self.data.put_run(replace(row, result=None))
        await super().close()


@breaks("test_s10_an_outcome_is_seen_whole_or_not_at_all")
class SettlesInSteps(Store):
    async def settle(self, outcomes):
        rows = [self.data.run(one.group.topic, one.group.agent, one.event_id) for one in outcomes]
        answers = await super().settle([replace(one, counts=()) for one in outcomes])
        await asyncio.sleep(0.001)
        for one, row, accepted in zip(outcomes, rows, answers, strict=True):
            if accepted and row.spent != one.token:
                self.data.add_counts(one.group.topic, one.group.agent, int(await self.now() // 60), one.counts)
        return answers


# --- the proof --------------------------------------------------------------------------------------


def factories(backend, lease):
    shared = {}
    if issubclass(backend, Bus):

        def make_bus(namespace="judged", topic_max_bytes=None):
            return backend.at(shared, namespace, lease=lease, topic_max_bytes=topic_max_bytes)

        return EventBusContract, {"make_bus": make_bus}
    return StoreContract, {"make_store": lambda namespace="judged": backend.at(shared, namespace)}


def verdicts(backend):
    contract, _ = factories(backend, 1)
    return {test: judge(contract, test, **factories(backend, contract.timing.lease)[1]) for test in contract.rules()}


@pytest.mark.parametrize("backend", [Bus, Store])
def test_the_memory_adapter_itself_keeps_everything(backend):
    assert {verdict.outcome for verdict in verdicts(backend).values()} == {"kept", "absent"}


@pytest.mark.parametrize(("backend", "test", "touched"), BROKEN)
def test_a_broken_backend_fails_its_rule_and_no_other(backend, test, touched):
    found = verdicts(backend)
    errors = {name: verdict.why for name, verdict in found.items() if verdict.outcome == "error"}
    assert not errors, f"failed by an error instead of an assertion: {errors}"
    assert found[test].outcome == "broken", f"{test} did not notice"
    failed = {name for name, verdict in found.items() if verdict.outcome == "broken"}
    assert {rule_of(name) for name in failed} <= touched, sorted(failed)
    needless = touched - {rule_of(name) for name in failed}
    assert not needless, f"rules that hold all the same: {sorted(needless)}"


def test_there_are_enough_of_them():
    assert len(BROKEN) >= 20
    for parameter in BROKEN:
        backend, base = parameter.values[0], parameter.values[0].__mro__[1]
        changed = [name for name in vars(backend) if not name.startswith("__") and name != "calls"]
        assert len(changed) == 1, f"{backend.__name__} changes {changed}"
        assert hasattr(base, changed[0])
