"""Durations as users write them: seconds, or a ``timedelta`` (``api.md`` §5)."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["Duration", "in_seconds"]

Duration = float | timedelta


def in_seconds(value: Duration) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
