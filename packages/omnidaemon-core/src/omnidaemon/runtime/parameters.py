"""What a callable asks for, read from its parameters once, at registration (``api.md`` §4)."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import typing_extensions
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from omnidaemon.model.envelope import EventEnvelope
from omnidaemon.model.errors import ConfigurationError, OmniDaemonError
from omnidaemon.ports.context import Context
from omnidaemon.runtime.record import message_of

__all__ = ["InvalidContentForAgent", "arguments_of", "unbound"]

Build = Callable[[EventEnvelope, Context], dict[str, Any]]
_MESSAGES = (dict, Any, collections.abc.Mapping, collections.abc.MutableMapping)


class InvalidContentForAgent(OmniDaemonError):
    """The content does not fit the type that the callable asks for; retrying cannot help."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """What one parameter is to get; ``adapter`` validates typed content."""

    name: str
    kind: Literal["context", "event", "message", "content", "own"]
    adapter: TypeAdapter[Any] | None = None
    optional: bool = False

    def value(self, event: EventEnvelope, context: Context) -> Any:
        """Return the argument of one call."""
        if self.kind == "context":
            return context
        if self.kind == "event":
            return event
        if self.adapter is None:
            return message_of(event, context.agent)
        try:
            return self.adapter.validate_python(event.payload.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise InvalidContentForAgent(f"content does not fit {self.name!r}: {where}: {first['msg']}") from None


def unbound(callback: Any) -> Any:
    """Return the function inside partials, or the ``__call__`` of an object."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return callback if inspect.isroutine(callback) else type(callback).__call__


def arguments_of(callback: Callable[..., Any]) -> Build:
    """Return what builds the keyword arguments of a call.

    Raises:
        ConfigurationError: A parameter that nothing fits, several for the content, or an annotation
            that cannot be resolved.
    """
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the parameters of {callback!r} cannot be read: {error}") from None
    bound = _bound(callback)
    wishes = [
        _wish(callback, parameter)
        for parameter in parameters
        if parameter.name not in bound and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    contents = [wish for wish in wishes if wish.kind in ("message", "content")]
    # A parameter with a default gets the content only where nothing else takes it: it may be the user's own.
    chosen = [wish for wish in contents if not wish.optional] or contents[:1]
    if len(chosen) > 1:
        names = ", ".join(wish.name for wish in chosen)
        raise ConfigurationError(f"{callback!r} has several content parameters ({names}); keep one")
    wanted = [wish for wish in wishes if wish.kind in ("context", "event")] + chosen
    return lambda event, context: {wish.name: wish.value(event, context) for wish in wanted}


def _bound(callback: Any) -> set[str]:
    names: set[str] = set()
    while isinstance(callback, functools.partial):
        names.update(callback.keywords)
        callback = callback.func
    return names


def _wish(callback: Any, parameter: inspect.Parameter) -> _Wish:
    name, optional = parameter.name, parameter.default is not parameter.empty
    if parameter.kind is parameter.POSITIONAL_ONLY:
        if optional:
            return _Wish(name, "own")
        raise ConfigurationError(f"{callback!r} takes {name!r} by position only; make it an ordinary parameter")
    if parameter.annotation is parameter.empty:
        return _message(parameter)
    hint = _resolved(callback, name, parameter.annotation)
    core = _not_none(hint)
    given: dict[Any, Literal["context", "event"]] = {Context: "context", EventEnvelope: "event"}
    if inspect.isclass(core) and core in given:
        return _Wish(name, given[core])
    if (typing.get_origin(core) or core) in _MESSAGES:
        return _message(parameter)
    return _typed(callback, name, hint, core, optional=optional)


def _message(parameter: inspect.Parameter) -> _Wish:
    """Return the wish for the message dict; a default other than None is a value that the user has bound."""
    if parameter.default in (parameter.empty, None):
        return _Wish(parameter.name, "message", optional=parameter.default is None)
    return _Wish(parameter.name, "own")


def _typed(callback: Any, name: str, hint: Any, core: Any, *, optional: bool) -> _Wish:
    if inspect.isclass(core) and (
        issubclass(core, BaseModel) or dataclasses.is_dataclass(core) or typing_extensions.is_typeddict(core)
    ):
        try:
            return _Wish(name, "content", TypeAdapter(_modern(hint)), optional)
        except PydanticUserError as error:
            raise ConfigurationError(f"{callback!r}: {name}: {error}") from None
    if optional:
        return _Wish(name, "own")
    raise ConfigurationError(
        f"{callback!r}: parameter {name!r} is annotated {hint!r}; use Context, EventEnvelope, a pydantic model, a"
        " dataclass, a TypedDict, or dict for the whole message"
    )


def _resolved(callback: Any, name: str, annotation: Any) -> Any:
    """Resolve one annotation: what a function returns may be unknown here."""
    function = inspect.unwrap(unbound(callback))
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}))[name]
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(
            f"the annotations of {callback!r} cannot be resolved: {error}; import it where the function is defined"
        ) from None


def _not_none(hint: Any) -> Any:
    """Return X for ``X | None``, else the hint."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _modern(hint: Any) -> Any:
    """Return the hint with each ``typing.TypedDict`` as the newer one that pydantic needs before Python 3.12."""
    if typing_extensions.is_typeddict(hint) and type(hint).__module__ == "typing":
        required = hint.__required_keys__
        fields = {
            name: _modern(part) if name in required else typing_extensions.NotRequired[_modern(part)]
            for name, part in typing.get_type_hints(hint).items()
        }
        return typing_extensions.TypedDict(hint.__name__, fields)  # type: ignore[operator]
    arguments = typing.get_args(hint)
    if not arguments:
        return hint
    parts = tuple(_modern(part) for part in arguments)
    if parts == arguments:
        return hint
    origin = typing.get_origin(hint)
    return typing.Union[parts] if origin in (typing.Union, types.UnionType) else origin[parts]  # noqa: UP007
