"""Checks of what users pass to queries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from omnidaemon.model.errors import InvalidEvent

__all__ = ["Listing", "checked_limit", "timestamp"]


class Listing(list[dict[str, Any]]):
    """A page of entries; ``cursor`` is what the next call takes, None on the last page."""

    cursor: str | None = None


def timestamp(value: datetime | float | None) -> float | None:
    """Return seconds since the epoch."""
    return value.timestamp() if isinstance(value, datetime) else value


def checked_limit(limit: Any) -> int:
    """Return ``limit`` if it is a number of entries.

    Raises:
        InvalidEvent: It is none.
    """
    if not isinstance(limit, int) or limit < 1:
        raise InvalidEvent(f"limit={limit!r} must be a whole number from 1")
    return limit
