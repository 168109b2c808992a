"""The web application: publishes, and tells what became of it. It runs no agent: ``uvicorn web:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from events import AGENT, TOPIC, Answer, Question
from fastapi import FastAPI, Header, HTTPException

from omnidaemon import OmniDaemonSDK, ResultTimeout, TaskError

sdk = OmniDaemonSDK()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect at the start, so that a wrong configuration stops the application, and close in the end."""
    async with sdk:
        yield


app = FastAPI(title="Questions", lifespan=lifespan)


@app.post("/questions", status_code=202)
async def ask(question: Question, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, str]:
    """Publish the question; it is durable when this returns. The same Idempotency-Key again asks nothing twice."""
    event = await sdk.publish(TOPIC, question, idempotency_key=idempotency_key)
    return {"id": event.id}


@app.get("/questions/{event_id}")
async def state(event_id: str) -> dict[str, Any]:
    """Return how far it is. An id that no worker has met yet may be unknown, or may just be waiting."""
    task = await sdk.get_task(f"{event_id}:{AGENT}")
    return {"state": "submitted" if task is None else task["state"]}


@app.get("/questions/{event_id}/answer")
async def answer(event_id: str, timeout: float = 10) -> Answer:
    """Wait for the answer."""
    try:
        return await sdk.task(f"{event_id}:{AGENT}").result(timeout=timeout, as_=Answer)
    except ResultTimeout as error:
        raise HTTPException(504, str(error)) from error
    except TaskError as error:
        raise HTTPException(502, str(error)) from error
