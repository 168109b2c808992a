"""The pytest plugin: runs the coroutines of contract classes, and reports what was proved.

It is loaded in every pytest run of everybody who has this package installed, so it imports the
standard library and pytest only, and leaves every test alone that is not part of a contract.
"""

from __future__ import annotations

import inspect
import subprocess
import uuid
from collections.abc import Generator
from typing import Any

import pytest

from omnidaemon_testing._running import plain
from omnidaemon_testing.report import SUITE, Report, describe, facts_of

__all__ = ["run_command"]

MARK = "omnidaemon_contract"
_REPORT = pytest.StashKey[Report]()

# Before anything imports them: without it a failing rule would not show its values.
pytest.register_assert_rewrite("omnidaemon_testing.contracts", SUITE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite and the report."""
    group = parser.getgroup("omnidaemon", "OmniDaemon contracts")
    group.addoption(
        "--omnidaemon-event-bus",
        metavar="NAME[=URL]",
        help=f"the event bus that `pytest --pyargs {SUITE}` tests, by its entry point's name",
    )
    group.addoption(
        "--omnidaemon-store", metavar="NAME[=URL]", help=f"the store that `pytest --pyargs {SUITE}` tests, likewise"
    )
    group.addoption(
        "--omnidaemon-restart-cmd",
        metavar="COMMAND",
        help="restarts the server of the tested backend and returns when it is back; some rules need it",
    )
    group.addoption(
        "--omnidaemon-time-scale",
        metavar="FACTOR",
        type=float,
        default=1.0,
        help="stretches the times of the suite for slow servers",
    )
    group.addoption("--omnidaemon-report", metavar="FILE", help="write the report of the contracts as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and start collecting what contract tests prove."""
    config.addinivalue_line("markers", f"{MARK}: a class of OmniDaemon's contracts; set by inheriting one")
    # A plugin of its own, because the hook for reports is not told the config.
    config.stash[_REPORT] = Report()
    config.pluginmanager.register(config.stash[_REPORT], "omnidaemon-report")


def pytest_collection(session: pytest.Session) -> None:
    """Refuse to run the suite against nothing."""
    config = session.config
    asked = [argument for argument in config.args if argument.replace("/", ".").partition(SUITE)[1]]
    if asked and not (config.getoption("omnidaemon_event_bus") or config.getoption("omnidaemon_store")):
        raise pytest.UsageError(
            f"{SUITE} needs a backend to test: give --omnidaemon-event-bus=NAME, --omnidaemon-store=NAME or both"
            " (the names of their entry points; `omnidaemon doctor` lists those installed)"
        )
    if asked:
        from omnidaemon_testing.suite.backends import check

        check(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those parts of the suite that no backend was named for, and label the rest."""
    given = {
        "event_bus": bool(config.getoption("omnidaemon_event_bus")),
        "store": bool(config.getoption("omnidaemon_store")),
    }
    out = [item for item in items if not all(given[need] for need in _suite_needs(item))]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker(MARK) is not None:
            describe(item)


def _suite_needs(item: pytest.Item) -> tuple[str, ...]:
    module = getattr(item, "module", None)
    return getattr(module, "NEEDS", ()) if getattr(module, "__name__", "").startswith(SUITE) else ()


@pytest.fixture
def unique_prefix() -> str:
    """A namespace that nothing else uses: tests on a shared server do not meet."""
    return f"t{uuid.uuid4().hex[:15]}"


@pytest.fixture
def runtime() -> Any:
    """``TestRuntime`` without an import: a test enters it with its own SDK."""
    from omnidaemon_testing.runtime import TestRuntime

    return TestRuntime


def run_command(command: str) -> None:
    """Run a shell command of the user; raises with its output when it fails."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - it is the user's own
    if done.returncode:
        pytest.fail(f"--omnidaemon-restart-cmd ended with {done.returncode}: {done.stdout}{done.stderr}", pytrace=False)


# --- running coroutines ---------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run the coroutine tests of contract classes, whatever async plugin is installed.

    The test function is replaced by a plain one before any plugin looks at it: those that hook in
    here (anyio) or earlier (pytest-asyncio wraps while it sets up) then find nothing to do.
    """
    if pyfuncitem.get_closest_marker(MARK) is None:
        return (yield)
    test = getattr(pyfuncitem.instance, pyfuncitem.originalname or pyfuncitem.name)
    if not inspect.iscoroutinefunction(test):
        return (yield)
    given = pyfuncitem.obj
    pyfuncitem.obj = plain(pyfuncitem.instance, test)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = given
        facts_of(pyfuncitem)


# --- the report -------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which rules were kept, and by what."""
    report = config.stash[_REPORT]
    if not report.subjects:
        return
    report.finish(
        whole_suite=all(config.getoption(name) for name in ("omnidaemon_event_bus", "omnidaemon_store")),
    )
    terminalreporter.section("OmniDaemon contracts")
    for line in report.lines(full=config.get_verbosity() > 0 or report.is_suite):
        terminalreporter.write_line(line)
    path = config.getoption("omnidaemon_report")
    if path:
        report.write(path)
        terminalreporter.write_line(f"written to {path}")
