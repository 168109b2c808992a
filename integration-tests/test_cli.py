"""The commands that look, publish and replay: through processes, against one worker on SQLite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from command import Command, until
from omnidaemon_cli.app import run_app

APP = """
import asyncio

from omnidaemon import Context, OmniDaemonSDK, RetryPolicy

sdk = OmniDaemonSDK()
quick = RetryPolicy(max_attempts=2, initial=0.05, jitter="none")


@sdk.agent("greet.requested")
async def greeter(message: dict, ctx: Context) -> dict:
    await ctx.progress("greeting", percent=50)
    return {"greeting": message["content"], "tenant": message["tenant_id"]}


@sdk.agent("sum.requested", retry=quick)
async def adder(message: dict) -> int:
    return sum(message["content"])


@sdk.agent("both.requested", name="first")
@sdk.agent("both.requested", name="second")
async def one_of_two(message: dict) -> str:
    return "done"


@sdk.agent("slow.requested")
async def sleeper(message: dict) -> str:
    await asyncio.sleep(60)
"""
UNREACHABLE = {
    "EVENT_BUS_TYPE": "redis_stream",
    "STORAGE_BACKEND": "redis",
    "REDIS_URL": "redis://user:secret@127.0.0.1:1/0",
    "OMNIDAEMON_CONNECT_TIMEOUT": "0.3",
}
ANSI = "\x1b["


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The command in a folder where a worker runs the application above."""
    command = Command(tmp_path_factory.mktemp("served"))
    (command.folder / "app.py").write_text(APP)
    with command.running("run", "app", OMNIDAEMON_GRACE="0.1") as worker:
        worker.ready()
        yield command


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def test_an_event_is_published_awaited_and_looked_at(served):
    event = served.json("task", "publish", "greet.requested", '{"name": "Ada"}')["id"]
    done = served("task", "wait", event, "--timeout", "20")
    assert (done.returncode, json.loads(done.stdout)["greeting"]) == (0, {"name": "Ada"})
    assert "50 %  greeting" in done.stderr
    assert json.loads(served.ok("task", "result", event))["greeting"] == {"name": "Ada"}
    record = served.json("task", "result", event)
    assert (record["task_id"], record["status"], record["agent"]) == (event, "completed", "greeter")
    assert served.json("task", "get", f"{event}:greeter")["id"] == record["id"] == f"{event}:greeter"
    assert "completed" in served.ok("task", "get", event)
    listed = served.json("task", "list", "--agent", "greeter", "--state", "completed")
    assert event in {task["task_id"] for task in listed["tasks"]}
    assert record["id"] in served.ok("task", "list")


@pytest.mark.slow
def test_the_options_of_the_first_implementation_are_accepted(served, tmp_path):
    options = ["--reply-to", "greet.answered", "--tenant-id", "t1", "--correlation-id", "c", "--causation-id", "k"]
    event = served.json("task", "publish", "--topic", "greet.requested", "--content", "text", *options, "--source", "s")
    done = served.json("task", "wait", "--task-id", event["id"], "--timeout", "20")
    assert done["result"] == {"greeting": "text", "tenant": "t1"}
    assert (done["correlation_id"], done["causation_id"], done["source"]) == ("c", "k", "s")
    assert served.json("task", "result", "--task-id", event["id"])["id"] == done["id"]
    assert len(served.json("task", "list", "-n", "1")["tasks"]) == 1
    file = tmp_path / "content.json"
    file.write_text('{"name": "file"}')
    event = served.json("task", "publish", "--payload-file", str(file), "--topic", "greet.requested")
    assert served.json("task", "wait", event["id"])["result"]["greeting"] == {"name": "file"}
    file.write_text(json.dumps({"id": "my-own-id", "topic": "greet.requested", "payload": {"content": [1]}}))
    assert served.json("task", "publish", "--payload-file", str(file))["id"] == "my-own-id"
    assert served.json("task", "wait", "my-own-id")["result"]["greeting"] == [1]


@pytest.mark.slow
def test_content_is_json_or_text_or_stdin(served):
    for typed, stdin, meant in (
        ("[1, 2]", None, [1, 2]),
        ("no json", None, "no json"),
        ("-", '{"a": 1e22}', {"a": 1e22}),
    ):
        event = served.json("task", "publish", "greet.requested", typed, stdin=stdin)["id"]
        result = served.ask(lambda sdk, event=event: sdk.task(event).result(timeout=20))
        assert result["greeting"] == meant


@pytest.mark.slow
def test_a_dead_letter_is_listed_shown_and_replayed(served):
    event = served.finished("sum.requested", "not numbers")
    done = served("task", "wait", event, "--timeout", "20")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"task {event}:adder is failed: TypeError: unsupported operand type(s) for +: 'int' and 'str'"
    ]
    assert served.json("task", "result", event, code=1)["reason"] == "max_attempts"
    letters = served.json("dlq", "list", "--topic", "sum.requested")["dead_letters"]
    assert [letter["id"] for letter in letters] == [f"{event}:adder"]
    assert letters == served.json("dlq", "list", "sum.requested")["dead_letters"]
    assert f"{event}:adder" in served.ok("dlq", "list")
    shown = served.json("dlq", "show", event)
    assert [attempt["error_type"] for attempt in shown["history"]] == ["TypeError", "TypeError"]
    text = served.ok("dlq", "show", event)
    assert "Traceback" in text
    assert "attempt 2" in text
    assert served.json("dlq", "replay", event) == {"replayed": 1}
    again = until(
        lambda: [found for found in served.ask(lambda sdk: sdk.dead_letters()) if found["generation"] == 1],
        "dead letter of the replay",
    )
    assert len(again[0]["history"]) == 4, "the history of the first generation is kept"
    assert served.ok("dlq", "replay", "--topic", "sum.requested", "--reason", "timeout") == "replayed 0\n"


@pytest.mark.parametrize(
    "arguments", [("task", "get", "x"), ("task", "result", "x"), ("dlq", "show", "x"), ("dlq", "replay", "x")]
)
def test_what_nobody_knows_is_not_found(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "omni.db"))
    assert run_app(list(arguments)) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: .*\bx\b.*\n", printed.err)
    assert run_app([*arguments, "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"] == "TaskNotFound"
    assert printed.err == ""


@pytest.mark.slow
def test_an_event_of_several_agents_wants_to_know_which(served):
    event = served.finished("both.requested", None)
    assert served.json("task", "wait", f"{event}:first")["result"] == "done"
    done = served("task", "result", event)
    assert done.returncode == 1
    assert f"{event}:first, {event}:second" in done.stderr


@pytest.mark.slow
def test_a_task_that_has_not_ended_is_waited_for_no_longer_than_asked(served):
    (event,) = served.publish("slow.requested", None)
    done = served("task", "wait", event, "--timeout", "0.5")
    assert done.returncode == 1
    assert done.stderr == f"task {event}:sleeper is working\n"
    assert served("task", "wait", "no-such-event", "--timeout", "0.1").returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("task", "list", "--nonsense"),
        ("task", "list", "--limit", "0"),
        ("task", "list", "--state", "nonsense"),
        ("task", "publish", "only.a.topic"),
        ("task", "publish"),
        ("task", "publish", "not a topic", "1"),
        ("task", "publish", "t", "--payload-file", "missing.json"),
        ("task", "get"),
        ("task", "get", "a", "--task-id", "b"),
        ("dlq", "replay"),
        ("dlq", "replay", "x", "--topic", "t"),
        ("run",),
        ("run", "app", "--workers", "0"),
        ("run", "app", "--log-format", "xml"),
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "omni.db"))
    assert run_app(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "rror: " in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("task", "publish", "-h"), ("dlq", "--help"), ("demo", "--help")]
)
def test_help_has_no_colour_on_a_pipe(command, arguments):
    shown = command.ok(*arguments, FORCE_COLOR="1", CLICOLOR_FORCE="1", GITHUB_ACTIONS="true")
    assert shown.startswith("Usage: omnidaemon")
    assert ANSI not in shown


@pytest.mark.slow
def test_output_has_no_colour_on_a_pipe_and_is_not_cut(served):
    event = served.finished("sum.requested", "x" * 300)
    for arguments in (
        ("task", "list"),
        ("task", "get", event),
        ("dlq", "list"),
        ("health",),
        ("doctor",),
        ("version",),
    ):
        shown = served.ok(*arguments, FORCE_COLOR="1", COLUMNS="40")
        assert ANSI not in shown, arguments
    assert "unsupported operand type(s) for +: 'int' and 'str'\n" in served.ok("dlq", "list", COLUMNS="40")


@pytest.mark.slow
def test_what_an_event_says_cannot_steer_the_terminal(served):
    event = served.finished("greet.requested", {"\x1b[2J": "\x1b]0;title\x07"})
    assert "\x1b" not in served.ok("task", "get", event) + served.ok("task", "result", event)


def test_version(command):
    began = time.perf_counter()
    shown = command.json("version")
    assert time.perf_counter() - began < 2, "it loads neither the SDK nor a backend"
    assert shown["version"] == shown["packages"]["omnidaemon-cli"]
    assert command.ok("version").startswith(f"omnidaemon {shown['version']} ")
    assert command.ok("--version") == command.ok("version")
    assert list(command.folder.iterdir()) == []


@pytest.mark.slow
def test_health_and_doctor_tell_what_runs_on_what_and_why(served):
    path = str(served.folder / ".omnidaemon" / "omnidaemon.db")
    shown = served.json("health")
    assert (shown["status"], shown["event_bus_type"], len(shown["workers"])) == ("running", "sqlite", 1)
    text = served.ok("health")
    assert "running" in text
    assert path in text
    assert "greet.requested/greeter" in text
    examined = served.json("doctor")
    assert examined["ok"] is True
    by_check = {finding["check"]: finding for finding in examined["findings"]}
    assert by_check["event bus"]["status"] == by_check["store"]["status"] == "ok"
    assert path in by_check["store"]["detail"]
    assert "neither EVENT_BUS_TYPE nor STORAGE_BACKEND" in by_check["store"]["detail"]
    assert "4 agents" not in by_check["health"]["detail"]
    assert "1 workers" in by_check["health"]["detail"]


@pytest.mark.slow
def test_doctor_warns_of_a_misspelt_variable(command):
    found = command.json("doctor", OMNIDAEMON_GRACES="3")["findings"]
    (warning,) = [finding for finding in found if finding["status"] == "warning"]
    assert "OMNIDAEMON_GRACE" in warning["detail"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("task", "publish", "t", "1"), ("task", "list"), ("dlq", "list"), ("health",), ("run", "app:sdk")]
)
def test_a_backend_that_cannot_be_reached_is_one_line(command, arguments):
    (command.folder / "app.py").write_text(APP)
    done = command(*arguments, **UNREACHABLE)
    assert done.returncode == 1, done
    said = done.stderr.splitlines()
    if arguments[0] == "run":
        said = [line for line in said if line.startswith("error")]
    assert len(said) == 1, done.stderr
    assert "127.0.0.1:1" in said[0]
    assert done.stdout == ""
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_doctor_says_what_cannot_be_reached(command):
    examined = command.json("doctor", code=1, **UNREACHABLE)
    assert {"event bus", "store"} <= {found["check"] for found in examined["findings"] if found["status"] == "failed"}
    assert "secret" not in json.dumps(examined)
    assert "redis://127.0.0.1:1/0" in json.dumps(examined)
    assert command.json("health", code=1, **UNREACHABLE)["status"] == "down"
    assert command.json("task", "list", code=1, **UNREACHABLE)["error"] == "BackendUnavailable"


def test_a_configuration_that_cannot_be_is_one_line(command):
    done = command("task", "list", EVENT_BUS_TYPE="kafka")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install omnidaemon-kafka" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert command.json("task", "list", code=1, EVENT_BUS_TYPE="nonsense")["error"] == "UnknownBackend"
    done = command("demo", "--nonsense")
    assert done.returncode == 2


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(served):
    code = f"{sys.executable} -m omnidaemon_cli task list --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", code], cwd=served.folder, env=served.environment(), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
