"""The ledger over memory tables: what a store's contract cannot see from outside."""

import pytest

from omnidaemon.model.run import Adoption, Ask, Group, Hold, Outcome, OutcomeKind
from omnidaemon.ports.ledger import admin
from omnidaemon.ports.store import Put, Query
from omnidaemon_memory import MemoryTables

A = Group("t", "a", 1)


@pytest.fixture
def tables():
    return MemoryTables()


def finish(ledger, event_id, ttl):
    ledger.claim("w", [Ask(A, event_id, f"token of {event_id}", 60)])
    outcome = Outcome(A, event_id, f"token of {event_id}", OutcomeKind.FINAL, ttl=ttl)
    assert ledger.settle([outcome]) == [True]


def test_a_write_of_what_expires_removes_what_has_expired(tables):
    with tables.transaction(1.0) as ledger:
        ledger.put("beats", [Put(f"w{number}", b"", ttl=5) for number in range(3)])
        ledger.put("config", [Put("kept", b"")])
    with tables.transaction(10.0) as ledger:
        ledger.put("config", [Put("other", b"")])
        assert ledger.tables.kv("beats", "w1") is not None, "it is removed with something that expires only"
        assert ledger.put("janitor", [Put("leader", b"me", ttl=5, expect=0)]) == [True]
        assert [ledger.tables.kv("beats", f"w{number}") for number in range(3)] == [None] * 3
        assert ledger.tables.kv("config", "kept") is not None


def test_a_sweep_says_whether_there_is_more(tables, monkeypatch):
    monkeypatch.setattr(admin, "_SWEPT", 2)
    with tables.transaction(1.0) as ledger:
        ledger.enroll("t", "a", b"")
        for number in range(3):
            finish(ledger, f"e{number}", ttl=5)
        finish(ledger, "kept", ttl=60)
    with tables.transaction(10.0) as ledger:
        assert [ledger.sweep(), ledger.sweep()] == [True, False]
        assert [ledger.tables.run("t", "a", f"e{number}") for number in range(3)] == [None] * 3
        assert ledger.tables.run("t", "a", "kept") is not None


def test_a_version_counts_from_one_again_after_an_expiry_or_a_deletion(tables):
    with tables.transaction(1.0) as ledger:
        ledger.put("ns", [Put("a", b"1", ttl=5), Put("b", b"1"), Put("b", b"2")])
        ledger.put("ns", [Put("b", None)])
    with tables.transaction(10.0) as ledger:
        assert ledger.put("ns", [Put("a", b"2", expect=1), Put("b", b"3", expect=2)]) == [False, False]
        assert ledger.put("ns", [Put("a", b"2", expect=0), Put("b", b"3", expect=0)]) == [True, True]
        assert [value.version for value in ledger.get("ns", ["a", "b"])] == [1, 1]


def test_deleting_a_group_drops_its_live_runs_and_nothing_else(tables):
    with tables.transaction(1.0) as ledger:
        ledger.enroll("t", "a", b"")
        ledger.enroll("t", "b", b"")
        finish(ledger, "done", ttl=60)
        ledger.adopt([Adoption(A, "waiting", b""), Adoption(Group("t", "b", 1), "waiting", b"")])
        ledger.claim("w", [Ask(A, "running", "r", 60, lane="k:x"), Ask(A, "behind", "s", 60, lane="k:x")])
        ledger.append(Hold(A, "running", "r"), [b"half"], 60)
        assert ledger.count(A) == {"inbox": 1, "working": 1, "waiting": 0, "dead_letters": 0}
        assert ledger.retire("t", "a", group=True, dead_letters=False).inbox == 3
        assert [row.event_id for row in ledger.records(Query(agent="a"), None, 9).items] == ["done"]
        assert ledger.count(A) == {"inbox": 0, "working": 0, "waiting": 0, "dead_letters": 0}
        assert ledger.count(Group("t", "b", 1))["inbox"] == 1
        assert ledger.follow("t", "a", "running", 0, 9) == []
        assert ledger.tables.lane(A, "k:x") is None
        assert ledger.tables.claimed_by("w", "") == []
