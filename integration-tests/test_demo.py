"""`omnidaemon demo`: what it shows is so, and it leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import Command, until

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    (tmp_path / "cwd").mkdir()
    (tmp_path / "tmp").mkdir()
    # What the user has configured is not the demo's business.
    configured = {"EVENT_BUS_TYPE": "kafka", "OMNIDAEMON_GRACE": "nonsense", "SQLITE_PATH": "/nowhere/x.db"}
    return Command(tmp_path / "cwd", {"TMPDIR": str(tmp_path / "tmp"), **configured})


def nothing_left(command):
    """Neither a file nor a process."""
    assert list(command.folder.iterdir()) == []
    assert list((command.folder.parent / "tmp").iterdir()) == []
    until(lambda: not processes(str(command.folder.parent)), "end of all processes", limit=5)


def processes(folder):
    """The processes that were started with this folder as their place for temporary files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}/tmp".encode() in (path / "environ").read_bytes():
                found.append(path.name)
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def test_the_demo_shows_what_it_promises(command):
    began = time.monotonic()
    shown = command.ok("demo", timeout=60)
    assert time.monotonic() - began < 60
    assert "\x1b" not in shown
    nothing_left(command)
    killed = re.search(r"kill -9 +pid (\d+) is killed", shown)[1]
    assert re.search(rf"restarted +pid \d+ is alive in place of {killed}", shown)
    assert "retried     minutes.txt failed at attempt 1 (ConnectionError" in shown
    assert "dead letter invoice.txt is given up after 3 attempts (FileNotFoundError)" in shown
    assert "replayed    invoice.txt is completed: 36 words; 0 dead letters are left" in shown
    assert re.search(rf"taken over +annual.txt is completed by pid \d+; what pid {killed} had read", shown)
    assert "12 events in, 12 results out, 12 follow-up events" in shown


SABOTAGE = """
import sys

from omnidaemon_cli.demo import play


class Look(play.Look):
    async def length(self, topic):
        return await super().length(topic) + (topic == "report.summarised")


play.Look = Look
sys.exit(play.play(as_json=True))
"""


def test_the_demo_fails_if_a_count_is_off_and_says_so_as_json_too(command):
    done = subprocess.run(
        [sys.executable, "-c", SABOTAGE],
        cwd=command.folder,
        env=command.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert told["problems"] == ["events on report.summarised: 13 instead of 12"]
    assert "worker ready" in told["log"]
    off = [what for what, count in told["counts"].items() if count["wanted"] != count["found"]]
    assert off == ["events on report.summarised"]
    scenes = {scene["scene"]: scene for scene in told["scenes"]}
    assert scenes["kill -9"]["pid"] in scenes["workers"]["pids"]
    assert scenes["taken over"]["finished_by"] != scenes["taken over"]["read_by"] == scenes["kill -9"]["pid"]
    nothing_left(command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_no_process_behind(command, number):
    with command.running("demo") as demo:
        until(lambda: b"workers" in demo.process.stdout.readline(), "first scene")
        demo.signal(number)
        assert demo.wait() != 0
        assert "Traceback" not in demo.log
    until(lambda: not processes(str(command.folder.parent)), "end of all processes", limit=10)
    if number != signal.SIGKILL:
        Path(demo._log).unlink()
        nothing_left(command)
