"""Agents that keep their event loop from running, each in its own way (D4)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from omnidaemon import Context

__all__ = ["hold_the_gil", "sleeping", "spinning"]


async def sleeping(message: dict[str, Any], ctx: Context) -> None:  # noqa: ARG001 - an agent's parameters
    """Block by a call that releases the GIL, as a synchronous HTTP client does."""
    time.sleep(message["content"])  # noqa: ASYNC251 - that is the point


async def spinning(message: dict[str, Any], ctx: Context) -> None:  # noqa: ARG001
    """Block by computing in Python."""
    end = time.monotonic() + message["content"]
    while time.monotonic() < end:
        pass


def hold_the_gil(seconds: float, longest: list[float]) -> Callable[[dict[str, Any], Context], Awaitable[None]]:
    """Return an agent that calls into C again and again, each call holding the GIL for about ``seconds``.

    How long the longest call took is added to ``longest``: on a busy machine it may be more.
    """
    exponent = _calibrated(seconds)

    async def agent(message: dict[str, Any], ctx: Context) -> None:  # noqa: ARG001
        end = time.monotonic() + message["content"]
        while (begun := time.monotonic()) < end:
            pow(7, exponent)
            longest.append(time.monotonic() - begun)
            await asyncio.sleep(seconds / 2)

    return agent


def _calibrated(seconds: float) -> int:
    """Return the exponent whose power takes about that long on this machine now."""
    exponent = 20_000
    while True:
        begun = time.perf_counter()
        pow(7, exponent)
        if time.perf_counter() - begun > seconds / 2:
            return exponent
        exponent = exponent * 3 // 2
