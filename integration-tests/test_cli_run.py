"""`omnidaemon run`: what it says, how it ends, and how the parent of several workers keeps them alive."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from command import Command, until
from omnidaemon_cli.options import RunOptions, parse

APP = """
import asyncio
import os
import sys
import time

from omnidaemon import Context, OmniDaemonSDK, RetryPolicy

sdk = OmniDaemonSDK()


@sdk.agent("loaded.asked")
async def loaded(message: dict) -> list:
    return sorted({"typer", "click", "rich", "dotenv", "argparse"} & sys.modules.keys())


@sdk.agent("nap.requested", max_concurrency=2, lease=2)
async def sleeper(message: dict) -> int:
    await asyncio.sleep(message["content"])
    return os.getpid()


@sdk.agent("block.requested")
async def blocker(message: dict) -> None:
    time.sleep(message["content"])


@sdk.agent("fail.requested", retry=RetryPolicy(max_attempts=2, initial=0.05, jitter="none"))
async def failing(message: dict) -> None:
    raise ValueError("no\\nway\\x1b[2J")
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    return Command(tmp_path)


def tasks(command, agent):
    return command.ask(lambda sdk: sdk.list_tasks(agent=agent, limit=1000))["tasks"]


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_says_what_was_chosen_and_why_and_stays_small(command):
    with command.running("run", "app") as worker:
        worker.ready()
        path = command.folder / ".omnidaemon" / "omnidaemon.db"
        assert (
            f"event bus   sqlite (default, as neither EVENT_BUS_TYPE nor STORAGE_BACKEND is set): {path}" in worker.log
        )
        assert (
            f"store       sqlite (default, as neither EVENT_BUS_TYPE nor STORAGE_BACKEND is set): {path}" in worker.log
        )
        assert "sleeper on nap.requested" in worker.log
        (event,) = command.publish("loaded.asked", None)
        assert command.json("task", "wait", event, "--timeout", "20")["result"] == ["argparse"], (
            "nothing of the terminal"
        )
        if sys.platform == "linux":
            (line,) = [
                line
                for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
                if line.startswith("VmRSS")
            ]
            assert int(line.split()[1]) <= 52 * 1024, line
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert "worker stopped" in worker.log
        assert worker.process.stdout.read() == b""


def test_failures_are_a_line_each_and_a_traceback_at_the_end(command):
    with command.running("run", "app:sdk") as worker:
        worker.ready()
        (event,) = command.publish("fail.requested", None)
        worker.said("given up")
        worker.said("ValueError: no", times=2)
    lines = worker.log.splitlines()
    (failed,) = [line for line in lines if "attempt 1/2 failed" in line]
    assert (
        f"agent failing, event {event}: attempt 1/2 failed: ValueError: no\\nway\\x1b[2J; next try in 0.1 s" in failed
    )
    assert sum("Traceback" in line for line in lines) == 1


def test_the_log_as_json_is_an_object_a_line(command):
    with command.running("run", "app:sdk", "--log-format", "JSON", "--workers", "2") as worker:
        worker.said('"ready"', times=2)
        (event,) = command.publish("fail.requested", None)
        worker.said("given up")
    records = [json.loads(line) for line in worker.log.splitlines()]
    (retried,) = [record for record in records if record.get("event_id") == event and record["level"] == "warning"]
    assert (retried["agent"], retried["topic"], retried["attempt"]) == ("failing", "fail.requested", 1)
    (dead,) = [record for record in records if record.get("event_id") == event and record["level"] == "error"]
    assert dead["reason"] == "max_attempts"
    assert "ValueError" in dead["exception"]
    (chosen,) = [record for record in records if record.get("event") == "chosen"]
    assert chosen["store"].endswith("omnidaemon.db")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:sdk", "there is no module 'nowhere'"),
        ("app:other", "it has app:sdk"),
        ("app:asyncio", "no OmniDaemonSDK"),
        ("app.py", "is not MODULE:SDK"),
        ("two", "say which SDK of 'two' is meant: it has two:a, two:b"),
        ("none", "it has none"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(command, target, said):
    (command.folder / "two.py").write_text(
        "from omnidaemon import OmniDaemonSDK\na, b = OmniDaemonSDK(), OmniDaemonSDK()\n"
    )
    (command.folder / "none.py").write_text("")
    done = command("run", target)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_mistake_of_the_application_is_shown_with_its_own_frames_only(command):
    (command.folder / "wrong.py").write_text("def load():\n    import not_there_at_all\n\nload()\n")
    done = command("run", "wrong:sdk", "--workers", "3")
    assert done.returncode == 1
    assert "No module named 'not_there_at_all'" in done.stderr
    assert done.stderr.count("Traceback") == 1, "said by one of the workers"
    assert "importlib" not in done.stderr
    assert "error: importing 'wrong' failed" in done.stderr


def test_the_application_s_folder_comes_first_and_app_dir_names_another(command):
    (command.folder / "inner").mkdir()
    (command.folder / "inner" / "inner_app.py").write_text(APP)
    with command.running("run", "inner_app", "--app-dir", "inner") as worker:
        worker.ready()


def test_run_options_survive_the_way_to_a_child():
    for options in (
        RunOptions("app"),
        RunOptions("app:sdk", 4, "some where", resume=True, log_level="debug", log_format="json"),
    ):
        assert parse(options.arguments()) == options
    assert parse(["app", "--help"]) is None
    assert parse(["app", "--workers", "x"]) is None
    assert parse([]) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_loses_nothing_and_runs_nothing_twice(command, number):
    events = command.publish("nap.requested", *[0.1] * 20)
    with command.running("run", "app") as worker:
        worker.ready()
        until(lambda: any(task["state"] == "completed" for task in tasks(command, "sleeper")), "first result")
        worker.signal(number)
        assert worker.wait() == 0
    left = [task for task in tasks(command, "sleeper") if task["state"] != "completed"]
    assert not any(task["state"] == "working" for task in left), "what was claimed is finished or handed back"
    with command.running("run", "app", "--workers", "2") as worker:
        worker.ready()

        def all_done():
            found = tasks(command, "sleeper")
            return found if sum(task["state"] == "completed" for task in found) == len(events) else None

        found = until(all_done, "end of all tasks")
    assert {task["task_id"] for task in found} == set(events)
    assert {task["starts"] for task in found} == {1}


@LINUX
def test_a_killed_worker_is_restarted_and_the_work_goes_on(command):
    quick = {"OMNIDAEMON_ADOPT_AFTER": "0.2"}
    with command.running("run", "app", "--workers", "2", **quick) as parent:
        parent.ready(2)
        events = command.publish("nap.requested", *[2.5] * 2)

        def holder():
            workers = {worker["worker"]: worker["pid"] for worker in command.ask(lambda sdk: sdk.health())["workers"]}
            return next(
                (workers[task["worker"]] for task in tasks(command, "sleeper") if task["state"] == "working"), None
            )

        victim = until(holder, "claim")
        time.sleep(1.0)  # the store takes the run over, so that only the short lease is waited for
        os.kill(victim, signal.SIGKILL)
        parent.said(f"(pid {victim}) ended (killed by SIGKILL)")
        parent.ready(3)
        assert len(parent.children()) == 2
        assert victim not in parent.children()
        for event in events:
            assert command.json("task", "wait", event, "--timeout", "20")["state"] == "completed"
        taken_over = [task for task in tasks(command, "sleeper") if task["starts"] == 2]
        assert taken_over
        assert victim not in {task["result"] for task in taken_over}
        parent.signal(signal.SIGTERM)
        assert parent.wait() == 0


@LINUX
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_at_once_even_while_an_agent_blocks(command, workers):
    with command.running("run", "app", "--workers", str(workers)) as process:
        process.ready(workers)
        command.publish("block.requested", 60)
        until(lambda: tasks(command, "blocker"), "claim")
        pids = process.children() if workers > 1 else []
        process.signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.process.poll() is None, "the first one waits for the agent"
        began = time.monotonic()
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        assert time.monotonic() - began < 2
        until(lambda: all(gone(pid) for pid in pids), "end of the workers")


@LINUX
def test_workers_end_with_their_parent(command):
    with command.running("run", "app", "--workers", "2") as parent:
        parent.ready(2)
        pids = parent.children()
        assert len(pids) == 2
        parent.signal(signal.SIGKILL)
        parent.wait()
        until(lambda: all(gone(pid) for pid in pids), "end of the workers")
        assert parent.log.count("worker stopped") == 2, "they drained"


def test_resume_ends_a_pause_and_a_plain_start_does_not(command):
    with command.running("run", "app") as worker:
        worker.ready()
        assert command.ask(lambda sdk: sdk.pause_agent("nap.requested", "sleeper"))
    command.publish("nap.requested", 0)
    with command.running("run", "app") as worker:
        worker.ready()
        time.sleep(0.5)
        assert tasks(command, "sleeper") == []
    with command.running("run", "app", "--resume", "--workers", "2") as worker:
        worker.ready(2)
        until(lambda: tasks(command, "sleeper"), "run")
        assert worker.log.count("agent sleeper on nap.requested is resumed") == 1


def test_a_stop_while_a_backend_is_not_reachable_is_obeyed(command):
    unreachable = {"EVENT_BUS_TYPE": "redis_stream", "STORAGE_BACKEND": "redis", "REDIS_URL": "redis://127.0.0.1:1"}
    with command.running("run", "app", **unreachable) as worker:
        worker.said("namespace")
        time.sleep(0.3)
        assert worker.process.poll() is None, "it tries again for connect_timeout"
        worker.signal(signal.SIGTERM)
        assert worker.wait(5) == 0
        assert "Traceback" not in worker.log


def test_the_same_application_runs_on_redis(command, redis_url):
    on_redis = {"EVENT_BUS_TYPE": "redis_stream", "STORAGE_BACKEND": "redis", "REDIS_URL": redis_url}
    command.variables |= {**on_redis, "OMNIDAEMON_NAMESPACE": f"t{time.time_ns()}"}
    with command.running("run", "app", "--workers", "2") as worker:
        worker.ready(2)
        event = command.json("task", "publish", "nap.requested", "0.1")["id"]
        assert command.json("task", "wait", event, "--timeout", "20")["state"] == "completed"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert not list(command.folder.glob(".omnidaemon"))
