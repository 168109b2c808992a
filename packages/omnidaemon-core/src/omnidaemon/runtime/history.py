"""What a record keeps of an attempt, cut to what any store can hold (P6: 20 attempts of 4 KiB)."""

from __future__ import annotations

import traceback
from typing import Any

from omnidaemon.model import jsontext

__all__ = ["appended", "describe", "text_of", "type_name"]

MAX_ATTEMPTS = 20
MAX_ENTRY = 4096
_MAX_ERROR = 1000
_MAX_STEPS = 1000
_LONGEST = 20_000


def type_name(error: BaseException) -> str:
    """Return the name of an exception's class, as metrics and records show it."""
    return _storable(type(error).__name__)[:80]


def text_of(error: BaseException) -> str:
    """Return the text of any exception, even of one whose ``__str__`` raises."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - it is the user's class
        return f"<its text cannot be had: {type(broken).__name__}>"
    return _cut(_storable(text[:_LONGEST]), _MAX_ERROR)


def describe(error: BaseException) -> dict[str, str]:
    """Return type, text and traceback of any exception."""
    lines = ""
    if error.__traceback__ is not None:
        try:
            lines = "".join(traceback.format_exception(error))
        except Exception:  # noqa: BLE001 - it is the user's class
            lines = "".join(traceback.format_tb(error.__traceback__))
    return {
        "error_type": type_name(error),
        "error": text_of(error),
        "traceback": _storable(lines if len(lines) <= _LONGEST else lines[: _LONGEST // 2] + lines[-_LONGEST // 2 :]),
    }


def appended(history: list[Any], entry: dict[str, Any]) -> list[Any]:
    """Return the history with one more attempt, the oldest ones dropped."""
    steps: dict[str, float] = entry.get("steps", {})
    while _size(steps) > _MAX_STEPS:
        steps = dict(list(steps.items())[: max(1, len(steps) * 2 // 3)] if len(steps) > 1 else ())
        entry["steps"] = {**steps, "...": 0.0}
    if "traceback" in entry:
        rest = _size({**entry, "traceback": ""})
        entry["traceback"] = _cut(entry["traceback"], MAX_ENTRY - rest)
    return [*history, entry][-MAX_ATTEMPTS:]


def _size(value: Any) -> int:
    return len(jsontext.dump(value))


def _cut(text: str, limit: int) -> str:
    """Return ``text``, without its middle if its JSON would have more than ``limit`` bytes."""
    kept = text
    length = len(text)
    while _size(kept) > limit and length > 0:
        length = length * limit // (_size(kept) + 16) if length > 64 else 0
        head = length // 3
        kept = f"{text[:head]}\n...\n{text[len(text) - length + head :]}"
    return kept


def _storable(text: str) -> str:
    """Make any text storable: no NUL, no lone surrogates."""
    return text.replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
