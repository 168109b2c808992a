"""Real content: the values that one backend or another has changed on the way (S8, design §4)."""

from __future__ import annotations

from typing import Any

from omnidaemon.model.envelope import EventEnvelope, PayloadBase, encode
from omnidaemon.model.jsontext import dump

__all__ = ["CORNERS", "corner_bytes", "event_bytes"]

CORNERS: dict[str, Any] = {
    "large float": 1e22,  # jsonb makes it an integer
    "minus zero": -0.0,  # jsonb loses the sign
    "tiny": 5e-324,
    "third": 1 / 3,
    "one": 1.0,  # becomes 1 in JavaScript and Lua
    "big integer": 2**70 + 1,  # beyond BSON and double
    "64 bit": [2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64],
    "unicode": "Grüße, 你好, שלום, 🦊👩‍👩‍👧, e\u0301 is not é, \u2028\ufeff\uffff",
    "escapes": 'quote " backslash \\ slash / tab \t line \n return \r bell \u0007 delete \u007f \\u0000',
    "order": {"z": 1, "a": 2, "é": 3, "10": 4, "9": 5},
    "keys": {"": 0, " ": 1, "$set": 2, "a.b": 3, "__proto__": 4, "_id": 5},
    "empty": ["", [], {}, None, False, True, 0],
    "markup": "<script>&amp;</script> %s %d {0} ${x} '; DROP TABLE runs; --",
    "deep": [[[[[[[[[[{"a": [[[]]]}]]]]]]]]]],
    "long": "x" * 5000,
    "list": list(range(300)),
}


def corner_bytes() -> bytes:
    """Return all corner cases as one JSON document, as results, steps and answers are kept."""
    return dump(CORNERS)


def event_bytes(event_id: str, topic: str, content: Any = None, **fields: Any) -> bytes:
    """Return an encoded event; the same arguments give the same bytes."""
    fields.setdefault("created_at", 1_767_225_600.25)
    return encode(EventEnvelope(id=event_id, topic=topic, payload=PayloadBase(content=content), **fields))
