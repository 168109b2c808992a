"""The agent, in processes of its own: ``omnidaemon run worker:sdk --workers 2``."""

import asyncio
import os

from events import AGENT, TOPIC, Answer, Question

from omnidaemon import Context, OmniDaemonSDK

sdk = OmniDaemonSDK()


@sdk.agent(TOPIC, name=AGENT, timeout=60)
async def answer(question: Question, ctx: Context) -> Answer:
    """Stand for a slow model."""
    for percent in (25, 50, 75):
        await asyncio.sleep(0.1)
        await ctx.progress("thinking", percent=percent)
    return Answer(text=question.text[::-1], process=os.getpid())
