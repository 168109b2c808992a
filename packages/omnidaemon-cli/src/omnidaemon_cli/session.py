"""One connected SDK for the time of a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from omnidaemon_cli.launch import load_environment

if TYPE_CHECKING:
    from omnidaemon import OmniDaemonSDK

__all__ = ["with_sdk"]

T = TypeVar("T")


def with_sdk(work: Callable[[OmniDaemonSDK], Awaitable[T]]) -> T:
    """Run ``work`` with an SDK of the configured backends and return what it returns."""
    load_environment()
    from omnidaemon import OmniDaemonSDK

    async def main() -> T:
        sdk = OmniDaemonSDK()
        try:
            return await work(sdk)
        finally:
            await sdk.shutdown()

    return asyncio.run(main())
