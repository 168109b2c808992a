"""Runs a plain callable, sync or async, a generator or not (R1)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from collections.abc import AsyncGenerator, Callable
from typing import Any

from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.ports.context import Context
from omnidaemon.ports.event_bus import PORT_VERSION
from omnidaemon.ports.runner import Done, Runner, RunnerCapabilities
from omnidaemon.runtime.parameters import arguments_of, unbound
from omnidaemon.runtime.threads import in_thread

__all__ = ["CallbackRunner"]


class CallbackRunner:
    """The runner of callables: coroutine functions on the loop, others in a thread each."""

    port_version = PORT_VERSION

    def __init__(self, callback: Callable[..., Any], isolation: str | None = None) -> None:
        function = unbound(callback)
        on_loop = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self._threaded = isolation == "thread" or (isolation is None and not on_loop)
        self._apart = isolation == "thread"
        self._callback = callback
        self._build = arguments_of(callback)
        self.capabilities = RunnerCapabilities(name="callback", cancellable=not self._threaded, streams=True)

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self, grace: float) -> None:
        """Nothing to let go of."""

    async def run(self, event: EventEnvelope, context: Context) -> Done:
        """Call it; a generator's items become partial output and a list of them the value."""
        arguments = self._build(event, context)
        if self._threaded:
            loop = asyncio.get_running_loop()
            value = await in_thread(lambda: self._call_blocking(arguments, context, loop), context)
        else:
            value = self._callback(**arguments)
        # A wrapper that is no coroutine function may still return a coroutine: it belongs to this loop.
        return Done(await _finished(value, context))

    def _call_blocking(self, arguments: dict[str, Any], context: Context, loop: asyncio.AbstractEventLoop) -> Any:
        value: Any = self._callback(**arguments)
        if self._apart and (inspect.isawaitable(value) or inspect.isasyncgen(value)):
            return asyncio.run(_finished(value, context))
        if not inspect.isgenerator(value):
            return value
        items: list[Any] = []
        for item in value:
            asyncio.run_coroutine_threadsafe(_emit(context, item), loop).result()
            items.append(item)
        return items


async def _finished(value: Any, context: Context) -> Any:
    """Await and drain what a call has returned."""
    if inspect.isawaitable(value):
        value = await value
    if inspect.isasyncgen(value):
        items: list[Any] = []
        async with contextlib.aclosing(typing.cast("AsyncGenerator[Any, None]", value)) as stream:
            async for item in stream:
                await context.emit(item)
                items.append(item)
        return items
    if inspect.isgenerator(value):
        items = []
        for item in value:
            await context.emit(item)
            items.append(item)
        return items
    return value


async def _emit(context: Context, item: Any) -> None:
    await context.emit(item)


if typing.TYPE_CHECKING:
    _: type[Runner] = CallbackRunner
