"""Runs what blocks in daemon threads: one that never returns cannot keep the process (D10)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from omnidaemon.runtime.signals import AskSignal

__all__ = ["in_thread"]


async def in_thread(call: Callable[[], Any], context: Any) -> Any:
    """Call in a daemon thread of its own and return what it returns.

    A cancelled call leaves its thread running; the context, if it wants to know, gets a future that
    ends with it, so that the slot stays taken until then.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()
    variables = contextvars.copy_context()

    def work() -> None:
        try:
            value, error = variables.run(call), None
        except BaseException as caught:  # noqa: BLE001 - carried over to the awaiting side
            value, error = None, caught
        try:
            loop.call_soon_threadsafe(finish, value, error)
        except RuntimeError:
            return  # the loop was closed while this thread could not be stopped

    def finish(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(None)
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(_carried(error))

    threading.Thread(target=work, name="omnidaemon-agent", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        abandon = getattr(context, "abandon", None)
        if abandon is not None:
            abandon(ended)
        raise


def _carried(error: BaseException) -> BaseException:
    """Return what the awaiting side is to raise: nothing that would mean something else in its loop."""
    if isinstance(error, StopIteration) or not isinstance(error, (Exception, AskSignal, SystemExit)):
        carried = RuntimeError(f"the agent raised {type(error).__name__}: {error}")
        carried.__cause__ = error
        return carried
    return error
