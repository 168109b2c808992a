"""The agents on memory: no server, no file, and the worker in the test's own process."""

import pytest
from app import Summary, Upload, index, sdk

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def worker(monkeypatch):
    # Backends are chosen at first use; application and worker share them here.
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    monkeypatch.setenv("STORAGE_BACKEND", "memory")
    await sdk.start()
    yield
    await sdk.shutdown()


@pytest.mark.usefixtures("worker")
async def test_every_agent_gets_the_event(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("three words here")
    event = await sdk.publish("file.uploaded", Upload(filename=str(file)))
    assert await event.result(agent="summarise", timeout=10, as_=Summary) == Summary(words=3)
    assert await event.result(agent="index", timeout=10) == "/"
    progress = [entry["percent"] async for entry in event.task("summarise").progress(timeout=1)]
    assert progress == [50]


@pytest.mark.usefixtures("worker")
async def test_a_busy_file_is_tried_again_later(tmp_path):
    event = await sdk.publish("file.uploaded", Upload(filename=str(tmp_path / "not there yet")))
    await event.result(agent="index", timeout=10)
    task = await event.task("summarise").info()
    while task is None or task["state"] == "working":
        task = await event.task("summarise").info()
    assert task["state"] == "submitted"
    assert task["attempt"] == 1, "RetryAfter spends no attempt"
    assert task["next_attempt_at"] - task["timestamp"] == pytest.approx(30, abs=1)


def test_an_agent_is_still_a_function():
    assert index(Upload(filename="notes.txt")) == "N"
