"""The worker rules can fail: each case here breaks one thing of the runtime, or of a backend under it."""

import pytest

from omnidaemon.model.run import OutcomeKind, TaskState
from omnidaemon.runtime import control, intake, outcome
from omnidaemon.runtime.control import Control
from omnidaemon.runtime.execution import Execution
from omnidaemon.runtime.intake import Intake
from omnidaemon.runtime.leases import Leases
from omnidaemon.runtime.outcome import Outcomes
from omnidaemon.runtime.worker import Worker
from omnidaemon.sdk.client import OmniDaemonSDK
from omnidaemon.sdk.commands import Commands
from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing import ContractTiming, WorkerContract
from omnidaemon_testing._judging import judge
from omnidaemon_testing._virtual import LoopClock

# Rules that have nothing to do with what is broken here hold all the same.
UNTOUCHED = ("test_p3_every_agent_gets_every_event", "test_d2_no_more_than_max_concurrency_at_a_time")


def verdict(test, bus=MemoryEventBus, store=MemoryStore):
    clock, brokers, tables = LoopClock(), {}, {}
    lease = ContractTiming().lease
    return judge(
        WorkerContract,
        test,
        make_bus=lambda namespace="judged": bus(
            brokers.setdefault(namespace, MemoryBroker()), clock=clock, lease=lease
        ),
        make_store=lambda namespace="judged": store(tables.setdefault(namespace, MemoryTables()), clock=clock),
    )


async def nothing(*_, **__):
    return None


class AcknowledgesEarly(MemoryEventBus):
    async def read(self, want, wait):
        got = await super().read(want, wait)
        self.broker.ack(got)
        return got


class ForgetsTheFence(MemoryStore):
    async def settle(self, outcomes):
        for one in outcomes:
            row = self.data.run(*one.group[:2], one.event_id)
            if row is not None:
                row.state, row.token = TaskState.WORKING, one.token
                self.data.put_run(row)
        return await super().settle(outcomes)


class RetriesEarly(MemoryStore):
    async def settle(self, outcomes):
        for one in outcomes:
            one.delay = one.delay and one.delay / 2
        return await super().settle(outcomes)


class LosesDeadLetters(MemoryStore):
    async def settle(self, outcomes):
        for one in outcomes:
            one.dead = None
        return await super().settle(outcomes)


class DropsFollowUps(MemoryStore):
    async def settle(self, outcomes):
        for one in outcomes:
            one.outbox = ()
        return await super().settle(outcomes)


class ForgetsTheTenant(MemoryStore):
    async def settle(self, outcomes):
        for one in outcomes:
            one.tenant = "everybody"
        return await super().settle(outcomes)


@pytest.mark.parametrize(
    ("backends", "test"),
    [
        ({"bus": AcknowledgesEarly}, "test_d3_a_dead_worker_s_event_runs_elsewhere"),
        ({"bus": AcknowledgesEarly}, "test_d1_a_vanished_worker_loses_nothing"),
        ({"store": ForgetsTheFence}, "test_d5_who_lost_its_claim_is_cancelled_and_refused"),
        ({"store": RetriesEarly}, "test_d6_a_failed_attempt_is_repeated"),
        ({"store": LosesDeadLetters}, "test_d7_after_its_attempts_a_run_is_a_dead_letter"),
        ({"store": LosesDeadLetters}, "test_q1_dead_letters_are_listed_and_purged"),
        ({"store": DropsFollowUps}, "test_s12_follow_ups_are_sent_with_the_outcome_and_once"),
        ({"store": ForgetsTheTenant}, "test_t4_the_tenant_goes_everywhere"),
    ],
)
def test_a_broken_backend_breaks_a_worker_rule(backends, test):
    found = verdict(test, **backends)
    assert found.outcome == "broken", found


async def stop_like_a_kill(self, _):
    await self.kill()


async def handless(self, _):
    self.state.jobs.clear()
    await self.kill()


async def no_pauses(_):
    return set()


def no_counts(*_):
    return []


def endless(self, job, *_, **__):
    made = self._base(job, OutcomeKind.RETRY, b"{}")
    made.attempt, made.delay = job.grant.attempt, 0.02
    return made


@pytest.mark.parametrize(
    ("target", "name", "value", "test"),
    [
        (Leases, "_renew", nothing, "test_d4_a_slow_run_keeps_its_lease"),
        (Leases, "_adopt", nothing, "test_d15_a_long_run_leaves_the_bus"),
        (Leases, "_lost", lambda *_: None, "test_d5_who_lost_its_claim_is_cancelled_and_refused"),
        (control, "paused_agents", no_pauses, "test_c1_a_pause_holds_everywhere"),
        (Control, "_heartbeat", nothing, "test_t1_health_tells_what_is_so"),
        (Outcomes, "_counts", no_counts, "test_t2_counters_are_exact"),
        (Outcomes, "failed", endless, "test_d8_non_retryable_gives_up_at_once"),
        (outcome, "MAX_RETRY_AFTER", 2, "test_d8_retry_after_is_obeyed_and_spends_nothing"),
        (Worker, "stop", stop_like_a_kill, "test_l1_what_does_not_finish_is_handed_back_at_once"),
        (Worker, "stop", handless, "test_l1_draining_finishes_what_runs"),
        (Intake, "inbox", nothing, "test_d6_a_failed_attempt_is_repeated"),
        (intake, "SCHEMA_MAJOR", 9, "test_d9_unknown_fields_are_kept_and_newer_majors_wait"),
        (Execution, "_abort", lambda *_: None, "test_c2_cancelling_reaches_a_run"),
        (OmniDaemonSDK, "shutdown", nothing, "test_l3_nothing_outlives_shutdown"),
        (Commands, "pause_agent", Commands.resume_agent, "test_c1_a_pause_holds_everywhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_a_broken_runtime_breaks_a_worker_rule(monkeypatch, target, name, value, test):
    monkeypatch.setattr(target, name, value)
    found = verdict(test)
    assert found.outcome == "broken", found
    assert {verdict(other).outcome for other in UNTOUCHED} == {"kept"}


def test_the_runtime_itself_keeps_them():
    for test in UNTOUCHED:
        assert verdict(test).outcome == "kept"
