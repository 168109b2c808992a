"""The application in thirty lines, as it is drawn (api.md §1)."""

import asyncio
import signal

import pytest
from pydantic import BaseModel

from omnidaemon import Context, OmniDaemonSDK, RetryAfter, RetryPolicy
from omnidaemon_memory import MemoryEventBus, MemoryStore

busy: list[str] = []
read_count: list[str] = []


async def is_busy(name: str) -> bool:
    return bool(busy) and busy.pop() == name


async def read(name: str) -> str:
    read_count.append(name)
    return f"text of {name}"


async def fetch(name: str) -> str:
    if await is_busy(name):
        raise RetryAfter(0.01)  # obeyed, spends no attempt
    return await read(name)


class Upload(BaseModel):
    filename: str


class Summary(BaseModel):
    words: int


sdk = OmniDaemonSDK()  # resolves nothing; backends are chosen at first use


@sdk.agent("file.uploaded", timeout=60, retry=RetryPolicy(max_attempts=4))
async def summarise(upload: Upload, ctx: Context) -> Summary:
    text = await ctx.step("fetch", fetch, upload.filename)
    await ctx.progress("summarising", percent=50)
    await ctx.publish("file.summarised", {"filename": upload.filename})
    return Summary(words=len(text.split()))


@sdk.agent("file.uploaded")  # fan-out: this one gets every event too; sync functions run in a thread
def index(upload: Upload) -> None:
    assert upload.filename


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    """The SDK above was made at import; what it chooses is decided at first use."""
    monkeypatch.setattr(sdk, "_given", (MemoryEventBus(), MemoryStore(), {}))


def test_the_client_and_the_worker(serve, run, eventually):
    async def client():
        async with sdk:  # connects; starts no worker
            assert not sdk.running
            event = await sdk.publish("file.uploaded", Upload(filename="a.txt"), key="a.txt")
            assert await sdk.get_task(f"{event.id}:summarise") is None
        busy.append("a.txt")
        async with serve(sdk):
            assert await event.result(agent="summarise", timeout=10, as_=Summary) == Summary(words=3)
            results = await event.results(timeout=1)
            assert {name: outcome.state.value for name, outcome in results.items()} == {
                "summarise": "completed",
                "index": "completed",
            }
            assert read_count == ["a.txt"]
            assert (await event.task("summarise").info())["attempt"] == 1
            messages = [entry["message"] async for entry in event.task("summarise").progress()]
            assert messages == ["summarising"]
            (follow_up,) = await eventually(lambda: sdk.inspect_topic("file.summarised"))
            assert follow_up["data"]["payload"]["content"] == {"filename": "a.txt"}

    run(client())

    @sdk.agent("stop")
    async def stop():
        asyncio.get_running_loop().call_later(0.02, signal.raise_signal, signal.SIGTERM)

    async def publish():
        async with sdk:
            await sdk.publish("stop")

    run(publish())
    sdk.run()  # one process; `omnidaemon run app:sdk --workers 4` for more
    assert not sdk.running
