"""Runs a plain callable: what it wants is read from its annotations (``api.md`` §4)."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import dataclasses
import inspect
import threading
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.model.errors import ConfigurationError, OmniDaemonError
from omnidaemon.ports.context import Context
from omnidaemon.ports.event_bus import PORT_VERSION
from omnidaemon.ports.runner import Done, Runner, RunnerCapabilities

__all__ = ["CallbackRunner", "InvalidContentForAgent", "message_of"]

_MESSAGE_TYPES = (dict, Any, inspect.Parameter.empty, typing.Mapping, collections.abc.Mapping)


class InvalidContentForAgent(OmniDaemonError):
    """The content does not fit the type that the callable asks for; retrying cannot help."""


def message_of(event: EventEnvelope, agent: str) -> dict[str, Any]:
    """Return the message dict that callables know (``surface.md`` §1.4)."""
    payload = event.payload
    return {
        "content": payload.content,
        "webhook": payload.webhook,
        "reply_to": payload.reply_to,
        "topic": event.topic,
        "task_id": event.id,
        "tenant_id": event.tenant_id,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "source": event.source,
        "delivery_attempts": event.delivery_attempts,
        "created_at": event.created_at,
        "session_id": event.session_id,
        "key": event.key,
        "headers": event.headers,
        "agent": agent,
    }


class CallbackRunner:
    """The runner of callables: coroutine functions on the loop, others in a thread each."""

    port_version = PORT_VERSION

    def __init__(self, callback: Callable[..., Any], isolation: str | None = None) -> None:
        target = callback if inspect.isroutine(callback) else getattr(callback, "__call__", callback)  # noqa: B004
        self._is_async = inspect.iscoroutinefunction(_unwrapped(callback)) or inspect.iscoroutinefunction(target)
        self._threaded = isolation == "thread" or (isolation is None and not self._is_async)
        self._callback = callback
        self._build = _arguments(callback)
        self.capabilities = RunnerCapabilities(name="callback", cancellable=not self._threaded, streams=True)

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self, grace: float) -> None:
        """Nothing to let go of."""

    async def run(self, event: EventEnvelope, context: Context) -> Done:
        """Call it; a generator's items become partial output and a list of them the value."""
        arguments = self._build(event, context)
        if self._threaded:
            return Done(await _in_thread(self._call_blocking, arguments, context))
        value: Any = self._callback(**arguments)
        if inspect.isawaitable(value):
            value = await value
        if inspect.isasyncgen(value):
            return Done(await _drain(typing.cast("collections.abc.AsyncGenerator[Any, None]", value), context))
        return Done(list(value) if inspect.isgenerator(value) else value)

    def _call_blocking(self, arguments: dict[str, Any]) -> Any:
        value = self._callback(**arguments)
        if inspect.iscoroutine(value):
            return asyncio.run(value)
        return list(value) if inspect.isgenerator(value) else value


async def _drain(items: collections.abc.AsyncGenerator[Any, None], context: Context) -> list[Any]:
    values = []
    async for item in items:
        values.append(item)
        await context.emit(item)
    return values


async def _in_thread(call: Callable[[dict[str, Any]], Any], arguments: dict[str, Any], context: Context) -> Any:
    """Run in a daemon thread of its own, so that one that never returns cannot keep the process (D10).

    A cancelled call leaves its thread running; the context, if it wants to know, gets a future that
    ends with it, so that the slot stays taken until then.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()
    variables = contextvars.copy_context()

    def work() -> None:
        try:
            value, error = variables.run(call, arguments), None
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
            future.set_exception(RuntimeError(str(error)) if isinstance(error, StopIteration) else error)

    threading.Thread(target=work, name="omnidaemon-agent", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        abandon = getattr(context, "abandon", None)
        if abandon is not None:
            abandon(ended)
        raise


def _unwrapped(callback: Any) -> Any:
    while hasattr(callback, "func"):
        callback = callback.func
    return inspect.unwrap(callback) if callable(callback) else callback


def _arguments(callback: Callable[..., Any]) -> Callable[[EventEnvelope, Context], dict[str, Any]]:
    """Return what builds the keyword arguments of a call, decided once (ConfigurationError if it cannot)."""
    try:
        hints = typing.get_type_hints(_hinted(callback))
        parameters = inspect.signature(callback).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the annotations of {callback!r} cannot be resolved: {error}") from None
    wanted: list[tuple[str, str, TypeAdapter[Any] | None]] = []
    content: list[str] = []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigurationError(f"{callback!r} takes {name!r} by position only; make it an ordinary parameter")
        hint = hints.get(name, parameter.annotation)
        if hint is Context:
            wanted.append((name, "context", None))
        elif hint is EventEnvelope:
            wanted.append((name, "event", None))
        elif parameter.default is not parameter.empty and name not in hints:
            continue  # bound by functools.partial or optional and untyped: the user's own
        else:
            kind, adapter = _content(callback, name, hint)
            wanted.append((name, kind, adapter))
            content.append(name)
    if len(content) > 1:
        raise ConfigurationError(f"{callback!r} has several content parameters ({', '.join(content)}); keep one")
    return _builder(wanted)


def _builder(
    wanted: list[tuple[str, str, TypeAdapter[Any] | None]],
) -> Callable[[EventEnvelope, Context], dict[str, Any]]:
    def build(event: EventEnvelope, context: Context) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, kind, adapter in wanted:
            if kind == "context":
                arguments[name] = context
            elif kind == "event":
                arguments[name] = event
            elif adapter is None:
                arguments[name] = message_of(event, context.agent)
            else:
                try:
                    arguments[name] = adapter.validate_python(event.payload.content)
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    where = ".".join(str(part) for part in first["loc"]) or "content"
                    raise InvalidContentForAgent(f"content does not fit {name!r}: {where}: {first['msg']}") from None
        return arguments

    return build


def _content(callback: Any, name: str, hint: Any) -> tuple[str, TypeAdapter[Any] | None]:
    origin = typing.get_origin(hint) or hint
    if origin in _MESSAGE_TYPES:
        return "message", None
    if inspect.isclass(hint) and (
        issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)
    ):
        try:
            return "content", TypeAdapter(hint)
        except PydanticUserError as error:
            raise ConfigurationError(f"{callback!r}: {name}: {error}") from None
    raise ConfigurationError(
        f"{callback!r}: parameter {name!r} is annotated {hint!r}; use Context, EventEnvelope, a pydantic model, a"
        " dataclass, a TypedDict, or dict for the whole message"
    )


def _hinted(callback: Any) -> Any:
    inner = _unwrapped(callback)
    return inner if inspect.isroutine(inner) else type(inner).__call__


if typing.TYPE_CHECKING:
    _: type[Runner] = CallbackRunner
