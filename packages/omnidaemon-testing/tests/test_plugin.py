"""The pytest plugin as its users meet it: in runs of their own, beside other async plugins."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytest_plugins = ("pytester",)
# Whole pytest runs, some in processes of their own.
pytestmark = pytest.mark.slow

REAL_TIME = """
import pytest
from omnidaemon_memory import MemoryBroker, MemoryEventBus
from omnidaemon_testing import ContractTiming, EventBusContract


class TestMine(EventBusContract):
    timing = ContractTiming(lease=0.2, quiet=0.05)

    @pytest.fixture
    def make_bus(self, unique_prefix):
        brokers = {}

        def make(namespace=unique_prefix, **settings):
            broker = brokers.setdefault(namespace, MemoryBroker())
            return MemoryEventBus(broker, lease=self.timing.lease, clock=self.clock, **settings)

        return make
"""
# The same in virtual time: what is tested here is the plugin.
SMALL = REAL_TIME.replace(
    "    timing =",
    "    from omnidaemon_testing._virtual import LoopClock, VirtualLoop as loop_factory\n"
    "    clock = LoopClock()\n"
    "    timing =",
)
BROKEN = SMALL.replace(
    "return MemoryEventBus(",
    "return Broken(",
).replace(
    "class TestMine",
    """class Broken(MemoryEventBus):
    async def trim(self, topic, before):
        return 7


class TestMine""",
)
USERS_OWN = """
import asyncio
import pytest

order = []


async def test_users_coroutine():
    order.append(asyncio.get_running_loop())


def test_users_plain():
    assert True
"""
NO_PLUGIN = ["-p", "no:anyio", "-p", "no:asyncio"]
# What these plugins themselves would warn of with such options.
SCOPE = ["-o", "asyncio_default_fixture_loop_scope=function"]
QUIET = ["-W", "default::pytest.PytestConfigWarning"]
ASYNC_PLUGINS = {
    "none": ([], NO_PLUGIN),
    "anyio": (["anyio"], ["-p", "no:asyncio"]),
    "anyio auto": (["anyio"], ["-p", "no:asyncio", "-o", "anyio_mode=auto"]),
    "asyncio strict": (["pytest_asyncio"], ["-p", "no:anyio", "-o", "asyncio_mode=strict", *SCOPE]),
    "asyncio auto": (["pytest_asyncio"], ["-p", "no:anyio", "-o", "asyncio_mode=auto", *SCOPE]),
    "both auto": (
        ["anyio", "pytest_asyncio"],
        ["-o", "anyio_mode=auto", "-o", "asyncio_mode=auto", *SCOPE, *QUIET],
    ),
}
FEW = ["-k", "p3 or l3 or removed"]


def run(pytester, *arguments, apart=False):
    runner = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
    return runner("-p", "no:cacheprovider", "-p", "no:randomly", *arguments)


@pytest.mark.parametrize("plugin", ASYNC_PLUGINS)
def test_coroutines_run_beside_any_async_plugin(pytester, plugin):
    needs, options = ASYNC_PLUGINS[plugin]
    for module in needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    pytester.makepyfile(test_contract=REAL_TIME)
    result = run(pytester, "-W", "error", *options, *FEW, apart=True)
    result.assert_outcomes(passed=6, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*EventBusContract on memory*"])


def test_the_users_own_coroutines_are_left_alone(pytester):
    pytester.makepyfile(test_mine=USERS_OWN)
    result = run(pytester, *NO_PLUGIN, apart=True)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])
    result.stdout.no_fnmatch_line("*OmniDaemon contracts*")


def test_loading_the_plugin_imports_nothing_of_ours_but_itself():
    code = (
        "import sys, omnidaemon_testing.plugin\n"
        "ours = ('omnidaemon', 'omnidaemon_memory', 'pydantic', 'anyio')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ours]\n"
        "bad += [m for m in sys.modules if m.startswith('omnidaemon_testing.contracts')]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_failing_rule_shows_its_values(pytester):
    pytester.makepyfile(test_contract=BROKEN)
    result = run(pytester, "-k", "p7_trimming_removes")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*two events were published before that time*", "*assert 7 == 2*"])


def test_the_default_fixture_says_what_to_override(pytester):
    pytester.makepyfile(
        "from omnidaemon_testing import EventBusContract, StoreContract, RunnerContract\n"
        "class TestBus(EventBusContract): ...\n"
        "class TestStore(StoreContract): ...\n"
        "class TestRunner(RunnerContract): ...\n"
    )
    result = run(pytester, "-k", "describes_itself")
    result.assert_outcomes(errors=3, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines_random(
        [
            "*TestBus must override the fixture make_bus*",
            "*TestStore must override the fixture make_store*",
            "*TestRunner must override the fixture make_runner*",
        ]
    )


@pytest.mark.parametrize(
    ("override", "accepted"),
    [
        ("    test_p9_publishing_makes_the_topic = None\n", False),
        ("    async def test_p9_publishing_makes_the_topic(self):\n        pass\n", False),
        ("    @pytest.mark.skip\n    async def test_p9_publishing_makes_the_topic(self):\n        pass\n", False),
        ("    @pytest.mark.xfail\n    async def test_p9_publishing_makes_the_topic(self):\n        pass\n", False),
        (
            (
                "    @pytest.mark.xfail(reason='one day', strict=True)\n"
                "    async def test_p9_publishing_makes_the_topic(self):\n"
                "        raise AssertionError\n"
            ),
            True,
        ),
        ("    async def test_of_my_own(self):\n        pass\n", True),
    ],
    ids=["removed", "replaced", "skipped", "xfail without a reason", "xfail", "one more"],
)
def test_rules_are_neither_removed_nor_replaced(pytester, override, accepted):
    pytester.makepyfile(test_contract=SMALL + "\n" + override)
    result = run(pytester, "-k", "removed")
    outcome = {"passed": 1} if accepted else {"failed": 1}
    result.assert_outcomes(**outcome, deselected=result.parseoutcomes()["deselected"])
    if not accepted:
        result.stdout.fnmatch_lines(["*removes or overrides without xfail(reason=...)*test_p9_publishing*"])


def test_a_test_that_hangs_is_given_up(pytester):
    pytester.makepyfile(
        test_contract=SMALL.replace("quiet=0.05", "quiet=0.05, test=0.2")
        + "\n    async def test_forever(self):\n        import asyncio\n        await asyncio.sleep(60)\n"
    )
    result = run(pytester, "-k", "forever")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*not done within 0.2 s*"])


# --- the report -------------------------------------------------------------------------------------


def report_of(pytester, *arguments, source=SMALL):
    pytester.makepyfile(test_contract=source)
    result = run(pytester, "--omnidaemon-report=report.json", *arguments)
    return result, json.loads((pytester.path / "report.json").read_text("utf-8"))


def results(report):
    return {rule["rule"]: rule["result"] for rule in report["contracts"][0]["rules"]}


def test_a_whole_run_is_certified(pytester):
    result, report = report_of(pytester)
    assert report["certified"]
    assert set(results(report).values()) == {"passed", "absent"}
    assert report["contracts"][0]["adapters"]["event_bus"]["redelivery"] == "idle"
    result.stdout.fnmatch_lines(["certified: EventBusContract on memory *"])


@pytest.mark.parametrize("parallel", [[], ["-n", "2"]])
def test_a_failure_is_reported(pytester, parallel):
    result, report = report_of(pytester, *parallel, source=BROKEN)
    assert not report["certified"]
    assert [rule for rule, got in results(report).items() if got == "failed"] == ["P7"]
    result.stdout.fnmatch_lines(["*P7 * failed *2 tests*"])
    result.stdout.no_fnmatch_line("*certified*")


def test_what_was_left_out_is_not_tried(pytester):
    result, report = report_of(pytester, "-k", "p3")
    assert not report["certified"]
    assert results(report)["P3"] == "passed"
    assert results(report)["P7"] == "not tried"
    result.stdout.no_fnmatch_line("*certified*")


def test_a_known_gap_is_reported(pytester):
    gap = (
        "\n    @pytest.mark.xfail(reason='no topics yet', strict=True)\n"
        "    async def test_p9_publishing_makes_the_topic(self):\n        raise AssertionError\n"
    )
    result, report = report_of(pytester, source=SMALL + gap)
    assert results(report)["P9"] == "known gap"
    result.stdout.fnmatch_lines(["*P9 * known gap *no topics yet*"])
    result.stdout.no_fnmatch_line("*certified*")


RESTARTABLE = REAL_TIME.replace("return MemoryEventBus(", "return Server(").replace(
    "class TestMine",
    """from dataclasses import replace


class Server(MemoryEventBus):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.capabilities = replace(self.capabilities, durability="disk", restartable=True)


class TestMine""",
)


def test_rules_that_need_a_restart_are_not_tried_without_a_command(pytester):
    result, report = report_of(pytester, "-k", "restart", source=RESTARTABLE)
    assert results(report)["L2"] == "not tried"
    assert results(report)["P1"] == "not tried"
    result.stdout.fnmatch_lines(["*L2 * not tried *needs a server restart: give --omnidaemon-restart-cmd*"])
    result.stdout.no_fnmatch_line("*certified*")


def test_the_restart_command_is_run(pytester):
    command = "--omnidaemon-restart-cmd=echo again >> restarts"
    _, report = report_of(pytester, command, "-k", "restart", source=RESTARTABLE)
    assert (pytester.path / "restarts").read_text().split() == ["again", "again"]
    assert results(report)["L2"] == "passed"


def test_a_failing_restart_command_is_a_failure(pytester):
    result, _ = report_of(pytester, "--omnidaemon-restart-cmd=echo cannot; exit 3", "-k", "l2", source=RESTARTABLE)
    result.stdout.fnmatch_lines(["*--omnidaemon-restart-cmd ended with 3: cannot*"])
    result.stdout.no_fnmatch_line("*certified*")


# --- the suite ------------------------------------------------------------------------------------


def test_the_suite_says_what_it_needs(pytester):
    result = run(pytester, "--pyargs", "omnidaemon_testing.suite")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*omnidaemon_testing.suite needs a backend to test: give --omnidaemon-event-bus=NAME*"]
    )


def test_the_suite_says_what_it_cannot_find(pytester):
    result = run(pytester, "--pyargs", "omnidaemon_testing.suite", "--omnidaemon-store=memmory")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--omnidaemon-store asks for the unknown store 'memmory'. Did you mean 'memory'*"])


def test_the_suite_tests_what_it_is_given(pytester):
    result = run(
        pytester, "--pyargs", "omnidaemon_testing.suite", "--omnidaemon-store=memory", "-k", "TestStore and (s9 or t2)"
    )
    assert result.parseoutcomes()["passed"] == 4
    result.stdout.fnmatch_lines(["StoreContract on memory *", "*S9 * passed *"])
    result.stdout.no_fnmatch_line("*EventBusContract*")


def test_the_suite_puts_bus_and_store_together(pytester):
    backends = ("--omnidaemon-event-bus=memory", "--omnidaemon-store=sqlite=./suite.db")
    result = run(pytester, "--pyargs", "omnidaemon_testing.suite", *backends, "-k", "TestWorker and p3")
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(["WorkerContract on memory + sqlite *"])
