"""JSON as it travels: what is refused, and the one encoder (design §4).

Content and results are kept as JSON bytes from end to end, because every typed column would
change something: jsonb turns 1e22 into an integer and loses -0.0, BSON has no big integers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from omnidaemon.model.errors import InvalidContent

__all__ = ["ENVELOPE_DEPTH", "MAX_DEPTH", "dump", "dump_validated", "load", "plain"]

MAX_DEPTH = 100
# An event's content lies this deep in its envelope.
ENVELOPE_DEPTH = 2
# More digits than Python reads back (sys.get_int_max_str_digits).
_DIGITS = 4300
_HUGE = re.compile(rb"\d{%d}" % (_DIGITS + 1))
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_SCALARS = frozenset({str, int, float, bool, type(None)})
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def plain(value: Any, what: str = "content") -> Any:
    """Return ``value`` with a pydantic model or dataclass at its top turned into plain data.

    Raises:
        InvalidContent: The model cannot be dumped as JSON.
    """
    if isinstance(value, BaseModel):
        try:
            return value.model_dump(mode="json")
        except (ValueError, TypeError, RecursionError) as error:
            name = type(value).__qualname__
            raise InvalidContent(f"{what}: the model {name} cannot be dumped as JSON: {str(error)[:200]}") from None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not asdict(): it copies what it does not know, and fails on locks and generators.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def dump(value: Any, what: str = "content", depth: int = MAX_DEPTH) -> bytes:
    """Encode ``value`` as UTF-8 JSON that reads back as the same value.

    Args:
        value: Any JSON value; models and dataclasses are dumped, tuples become lists.
        what: What to call the value in an error.
        depth: How deep it may be nested.

    Raises:
        InvalidContent: NaN, infinity, NUL, a lone surrogate, a key that is no string, nesting deeper
            than ``depth``, a cycle, or a type that JSON does not have.
    """
    data = _quick(value, depth) if _ordinary(value, depth) else None
    return _thorough(value, what, depth) if data is None else data


def _thorough(value: Any, what: str, depth: int) -> bytes:
    try:
        text = _encode(value)
    except TypeError:
        return _thorough(_reduce(value, what, 0), what, depth)
    except ValueError as error:
        raise InvalidContent(f"{what} cannot be JSON: {error}; send null or a string instead") from None
    except RecursionError:
        raise InvalidContent(f"{what} is nested deeper than {MAX_DEPTH}; flatten it") from None
    # The encoder turns 1, None and True into strings when they are keys; only a walk can tell.
    if "{" in text or "[" in text:
        _walk(value, what, 1, depth if text.count("[") + text.count("{") > depth else None)
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise InvalidContent(f"{what} holds a NUL character, which some stores cannot keep; remove it")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidContent(
            f"{what} holds the lone surrogate {text[error.start]!r}, which is not Unicode text; replace it"
        ) from None


def dump_validated(value: dict[str, Any], depth: int = MAX_DEPTH) -> bytes:
    """Encode like :func:`dump` what pydantic's ``JsonValue`` has accepted, without looking at its types again."""
    data = _quick(value, depth)
    return _thorough(value, "content", depth) if data is None else data


def _quick(value: Any, depth: int) -> bytes | None:
    """Encode plain data in a quarter of the time; None where something could have to be refused."""
    try:
        data = to_json(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        return None
    if (
        b"\\u0000" in data
        or b"NaN" in data
        or b"Infinity" in data
        or data.count(b"[") + data.count(b"{") > depth
        or (len(data) > _DIGITS and _HUGE.search(data))
    ):
        return None
    return data


def _ordinary(value: Any, depth: int) -> bool:
    """Return whether ``value`` is of JSON's own types all through; subclasses of them are not."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not (type(item) in _SCALARS or _ordinary(item, depth - 1)):
                return False
        return True
    return kind is list and all(type(item) in _SCALARS or _ordinary(item, depth - 1) for item in value)


def load(data: bytes | str) -> Any:
    """Decode JSON bytes; raises ``ValueError`` for what is not JSON."""
    return json.loads(data)


def _walk(value: Any, what: str, depth: int, limit: int | None) -> None:
    if limit is not None and depth > limit:
        raise InvalidContent(f"{what} is nested deeper than {MAX_DEPTH}; flatten it")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidContent(f"{what} has the key {key!r}, and JSON keys are strings; use str(key)")
            if isinstance(item, (dict, list, tuple)):
                _walk(item, what, depth + 1, limit)
    else:
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _walk(item, what, depth + 1, limit)


def _reduce(value: Any, what: str, depth: int) -> Any:
    """Turn models, dataclasses and mappings inside ``value`` into plain data, or say what cannot be."""
    if depth > MAX_DEPTH + ENVELOPE_DEPTH:
        raise InvalidContent(f"{what} is nested deeper than {MAX_DEPTH}; flatten it")
    value = plain(value, what)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidContent(f"{what} has the key {key!r}, and JSON keys are strings; use str(key)")
        return {key: _reduce(item, what, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_reduce(item, what, depth + 1) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise InvalidContent(
        f"{what} holds a {type(value).__module__}.{type(value).__qualname__}, which JSON has no type for;"
        " convert it to a string, number, list or dict"
    )
