"""Runs one coroutine test of a contract in a loop of its own (standard library and pytest only)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["plain"]


def plain(instance: Any, test: Callable[..., Any]) -> Callable[..., None]:
    """Return a plain function that runs the coroutine function ``test`` of a contract's instance."""

    def run(**arguments: Any) -> None:
        # A runner per test, as asyncio.run would be: no loop, task or context is shared by tests.
        with asyncio.Runner(loop_factory=getattr(instance, "loop_factory", None)) as runner:
            runner.run(_bounded(instance, test, arguments))

    return run


async def _bounded(instance: Any, test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    limit = instance.timing.test
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            try:
                await test(**arguments)
            except instance.broken_by as error:
                raise AssertionError(f"{type(error).__name__}: {error}") from error
            finally:
                await instance.finish()
    except TimeoutError:
        if not scope.expired():
            raise
        pytest.fail(f"not done within {limit:g} s (timing.test)")
