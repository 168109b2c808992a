"""What a run has proved, rule by rule: printed at its end, and as JSON (standard library only)."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SUITE", "Report", "Subject", "describe", "facts_of"]

SUITE = "omnidaemon_testing.suite"
CONTRACTS = "omnidaemon_testing.contracts"
_LABEL, _FACTS = "omnidaemon_label", "omnidaemon_facts"
_RULE = re.compile(r"test_([a-z]\d+|port)_")
PASSED, ABSENT, GAP, UNTRIED, FAILED = "passed", "absent", "known gap", "not tried", "failed"
# From best to worst: a rule is as good as the worst of its tests that was run at all.
_ORDER = (ABSENT, PASSED, GAP, UNTRIED, FAILED)


def describe(item: pytest.Function) -> None:
    """Attach to a contract's test what the report needs to know; it travels with its reports."""
    for base in getattr(item.cls, "__mro__", ()):
        if base.__module__.startswith(CONTRACTS) and base.__name__.endswith("Contract"):
            label = {
                "contract": f"{base.__module__}:{base.__name__}",
                "class": item.nodeid.rpartition("::")[0],
                "test": item.originalname or item.name,
                "suite": getattr(item.module, "__name__", "").startswith(SUITE),
            }
            item.user_properties.append((_LABEL, label))
            return


def facts_of(item: pytest.Function) -> None:
    """Attach the capabilities of the adapters that a test has opened."""
    facts = getattr(item.instance, "facts", {})
    item.user_properties.append((_FACTS, {port: _plain(value) for port, value in facts.items()}))


def _plain(capabilities: Any) -> dict[str, Any]:
    values = {field.name: getattr(capabilities, field.name) for field in dataclasses.fields(capabilities)}
    return {name: dict(value) if name == "notes" else value for name, value in values.items()}


@dataclasses.dataclass(slots=True)
class Subject:
    """A contract class over one adapter: ``tests`` holds (result, reason) by test name."""

    contract: str
    name: str
    suite: bool
    adapters: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    tests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was tested on what."""
        names = " + ".join(f"{facts.get('name')}" for facts in self.adapters.values())
        return f"{self.contract.partition(':')[2]} on {names or 'nothing that opened'} ({self.name})"

    def note(self, test: str, result: str, reason: str) -> None:
        """Note a result; a worse one of the same test (its teardown, a parameter) replaces it."""
        known = self.tests.get(test)
        if known is None or _ORDER.index(result) > _ORDER.index(known[0]):
            self.tests[test] = (result, reason)

    def complete(self) -> None:
        """Add the tests of the contract that never ran, and the rules' own words."""
        module, _, name = self.contract.partition(":")
        rules = getattr(importlib.import_module(module), name).rules()
        for test, function in rules.items():
            self.tests.setdefault(test, (UNTRIED, "was not run"))
            self.texts[test] = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")

    def rules(self) -> dict[str, list[str]]:
        """Return the tests of each rule, in the order of the design."""
        found: dict[str, list[str]] = {}
        for test in self.tests:
            match = _RULE.match(test)
            found.setdefault(match[1].upper() if match else "OWN", []).append(test)
        return dict(sorted(found.items(), key=lambda item: (item[0][0], len(item[0]), item[0])))

    def result(self, tests: list[str]) -> str:
        """Return the result of a rule."""
        return max((self.tests[test][0] for test in tests), key=_ORDER.index)

    def reasons(self, tests: list[str], result: str) -> list[str]:
        """Return why tests of a rule have that result, without repeating."""
        return list(
            dict.fromkeys(reason for test in tests for got, reason in [self.tests[test]] if got == result and reason)
        )


class Report:
    """Collects the outcomes of contract tests, run here or in workers of xdist."""

    def __init__(self) -> None:
        self.subjects: dict[str, Subject] = {}
        self.missing: list[str] = []

    @property
    def is_suite(self) -> bool:
        """Whether the ready-made suite was run."""
        return any(subject.suite for subject in self.subjects.values())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of one phase of a contract's test."""
        properties = dict(report.user_properties)
        label = properties.get(_LABEL)
        if not isinstance(label, dict) or (report.when != "call" and report.outcome == "passed"):
            return
        subject = self.subjects.setdefault(label["class"], Subject(label["contract"], label["class"], label["suite"]))
        facts = properties.get(_FACTS)
        if isinstance(facts, dict):
            subject.adapters.update(facts)
        subject.note(label["test"], *_result(report))

    def finish(self, *, whole_suite: bool) -> None:
        """Compare with what there was to run."""
        for subject in self.subjects.values():
            subject.complete()
        if self.is_suite and not whole_suite:
            self.missing.append(
                "the rules of bus, store and worker together: give --omnidaemon-event-bus and --omnidaemon-store"
            )

    @property
    def certified(self) -> bool:
        """Whether nothing failed, nothing was left untried and there is no known gap."""
        results = {result for subject in self.subjects.values() for result, _ in subject.tests.values()}
        return not self.missing and results <= {PASSED, ABSENT}

    def lines(self, *, full: bool) -> Iterator[str]:
        """Yield the report as text; a line per rule if ``full``."""
        for subject in self.subjects.values():
            yield subject.title
            for port, facts in subject.adapters.items():
                yield from _wrap(f"  {port}: ", _capabilities(facts))
            rules = subject.rules()
            results = {rule: subject.result(tests) for rule, tests in rules.items()}
            for result in reversed(_ORDER):
                mine = [rule for rule, got in results.items() if got == result]
                if mine and not full and result in (PASSED, ABSENT):
                    yield from _wrap(f"  {result}: ", " ".join(mine))
                for rule in mine if full or result not in (PASSED, ABSENT) else ():
                    tests = rules[rule]
                    count = sum(subject.tests[test][0] == result for test in tests)
                    why = "; ".join([*subject.reasons(tests, result), *_partly(subject, tests, result)])
                    yield from _wrap(
                        f"  {rule:5}{result:11}", f"{count} test{'s' * (count != 1)}{': ' * bool(why)}{why}"
                    )
        for missing in self.missing:
            yield from _wrap("  not tried  ", missing)
        if self.certified:
            yield f"certified: {', '.join(subject.title for subject in self.subjects.values())}"

    def write(self, path: str) -> None:
        """Write the report as JSON."""
        data = {
            "certified": self.certified,
            "not_tried": self.missing,
            "contracts": [
                {
                    "contract": subject.contract,
                    "class": subject.name,
                    "adapters": subject.adapters,
                    "rules": [
                        {
                            "rule": rule,
                            "result": subject.result(tests),
                            "tests": [
                                {
                                    "name": test,
                                    "rule": subject.texts.get(test, ""),
                                    "result": subject.tests[test][0],
                                    "reason": subject.tests[test][1],
                                }
                                for test in tests
                            ],
                        }
                        for rule, tests in subject.rules().items()
                    ],
                }
                for subject in self.subjects.values()
            ],
        }
        Path(path).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _result(report: pytest.TestReport) -> tuple[str, str]:
    if report.outcome == "passed":
        # An xfail that passes is reported as failed where it is strict.
        return (GAP, f"passes unexpectedly: {report.wasxfail}") if hasattr(report, "wasxfail") else (PASSED, "")
    if report.outcome == "skipped":
        if hasattr(report, "wasxfail"):
            return GAP, report.wasxfail.removeprefix("reason: ")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if reason.startswith("capability: "):
            return ABSENT, reason.removeprefix("capability: ")
        return UNTRIED, reason.removeprefix("not tried: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else str(report.longrepr)
    return FAILED, message.strip().partition("\n")[0]


def _partly(subject: Subject, tests: list[str], result: str) -> list[str]:
    return [f"(in part {reason})" for reason in subject.reasons(tests, ABSENT)] if result == PASSED else []


def _capabilities(facts: dict[str, Any]) -> str:
    told = [
        f"{name}={value}" for name, value in facts.items() if not isinstance(value, (bool, dict)) and name != "name"
    ]
    has = [name for name, value in facts.items() if value is True]
    lacks = [
        f"no {name}" + (f" ({facts['notes'][name]})" if name in facts.get("notes", {}) else "")
        for name, value in facts.items()
        if value is False
    ]
    return f"{facts.get('name')}: {', '.join([*told, *has, *lacks])}"


def _wrap(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]
