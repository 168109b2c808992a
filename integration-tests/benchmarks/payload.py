"""What is published: JSON content of about 400 bytes, the same for everybody."""

from __future__ import annotations

import json
from typing import Any

_FIXED = {"filename": "reports/2026/quarter-3.pdf", "user": "u-18233", "language": "en", "pages": 48, "draft": False}


def content(number: int, size: int = 400, **more: Any) -> dict[str, Any]:
    """Content whose JSON text has ``size`` bytes."""
    fields = {"number": number, **more, **_FIXED, "text": ""}
    missing = size - len(json.dumps(fields))
    return {**fields, "text": ("lorem ipsum dolor sit amet " * (missing // 27 + 1))[: max(missing, 0)]}


def body(number: int, size: int = 400, **more: Any) -> bytes:
    """The JSON text of `content`."""
    return json.dumps(content(number, size, **more)).encode()
