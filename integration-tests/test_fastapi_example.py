"""The FastAPI example: uvicorn publishes, a worker in another process answers."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from command import Command, until

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fastapi_publisher"


pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    return Command(tmp_path)


@pytest.fixture
def web(command):
    """The running application, as an HTTP client."""
    log = command.folder / "web.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "web:app", "--port", "0"],
            cwd=command.folder,
            env=command.environment(),
            stderr=file,
        )
    try:

        def url():
            assert server.poll() is None, log.read_text()
            return re.search(r"running on (http://\S+)", log.read_text())

        with httpx.Client(base_url=until(url, "line with the address")[1], timeout=30) as client:
            yield client
        server.send_signal(signal.SIGINT)
        assert server.wait(15) in (0, 130)
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.wait()


def test_what_the_application_publishes_is_worked_on_in_another_process(command, web):
    asked = web.post("/questions", json={"text": "abc"}, headers={"idempotency-key": "one"})
    assert asked.status_code == 202
    event = asked.json()["id"]
    assert web.get(f"/questions/{event}").json() == {"state": "submitted"}, "no worker runs in the application"
    assert web.get(f"/questions/{event}/answer", params={"timeout": 0.1}).status_code == 504
    assert web.post("/questions", json={"text": ""}).status_code == 422
    with command.running("run", "worker:sdk") as worker:
        worker.ready()
        answer = web.get(f"/questions/{event}/answer").json()
        assert answer == {"text": "cba", "process": worker.process.pid}
        assert web.get(f"/questions/{event}").json() == {"state": "completed"}
        again = web.post("/questions", json={"text": "abc"}, headers={"idempotency-key": "one"}).json()
        assert again["id"] == event
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert len(command.json("task", "list")["tasks"]) == 1, "the same key asked nothing twice"
