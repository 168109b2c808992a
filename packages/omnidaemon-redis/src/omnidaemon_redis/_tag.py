"""What a delivery carries to find its way back."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Tag"]


class Tag(NamedTuple):
    """The entry's position as the server writes it, which reader was handed it, and when it was claimed."""

    position: bytes
    reader: str
    claimed: int = 0
