"""Two agents on one topic; run them with ``omnidaemon run app:sdk``."""

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from omnidaemon import Context, OmniDaemonSDK, RetryAfter, RetryPolicy


class Upload(BaseModel):
    """What is published on ``file.uploaded``."""

    filename: str


class Summary(BaseModel):
    """What ``summarise`` returns."""

    words: int


sdk = OmniDaemonSDK()  # resolves nothing yet; backends are chosen at first use


def fetch(filename: str) -> str:
    """Stand for a service that is busy until the file is there; a plain function runs in a thread."""
    if not Path(filename).exists():
        raise RetryAfter(30)  # obeyed, and spends no attempt
    return Path(filename).read_text(encoding="utf-8")


@sdk.agent("file.uploaded", timeout=60, retry=RetryPolicy(max_attempts=4))
async def summarise(upload: Upload, ctx: Context) -> Summary:
    """Count the words of a file and say so."""
    text = await ctx.step("fetch", fetch, upload.filename)  # kept: neither a retry nor a crash repeats it
    await ctx.progress("summarising", percent=50)
    await ctx.publish("file.summarised", {"filename": upload.filename})  # sent if and when this attempt counts
    return Summary(words=len(text.split()))


@sdk.agent("file.uploaded")  # this one gets every event too; plain functions run in a thread
def index(upload: Upload) -> str:
    """File it by its first letter."""
    return upload.filename[:1].upper()


async def client(filename: str) -> None:
    """Publish one event and wait for both agents; connects, and runs no agent here."""
    async with sdk:
        event = await sdk.publish("file.uploaded", Upload(filename=filename), key=filename)
        summary = await event.result(agent="summarise", timeout=20, as_=Summary)
        print(f"{filename}: {summary.words} words, filed under {await event.result(agent='index', timeout=20)}")


if __name__ == "__main__":
    asyncio.run(client(sys.argv[1] if len(sys.argv) > 1 else __file__))
