"""Fixtures of core's own tests: SDKs on memory backends, with short waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol

import pytest

from omnidaemon import OmniDaemonSDK
from omnidaemon.runtime import control, intake, relay
from omnidaemon.sdk import handles
from omnidaemon_memory import MemoryEventBus, MemoryStore

FOREIGN = ("EVENT_BUS_TYPE", "STORAGE_BACKEND", "REDIS_URL", "REDIS_KEY_PREFIX", "SQLITE_PATH", "JSON_STORAGE_DIR")


class MakeSDK(Protocol):
    """Makes SDKs that share one memory bus and one memory store, as processes share servers."""

    def __call__(self, **settings: Any) -> OmniDaemonSDK: ...


class Serve(Protocol):
    """Runs an SDK's worker for the length of a block."""

    def __call__(self, *sdks: OmniDaemonSDK) -> contextlib.AbstractAsyncContextManager[None]: ...


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker looks more often than it would, so that stopping and pausing take milliseconds."""
    monkeypatch.setattr(intake, "READ_WAIT", 0.005)
    monkeypatch.setattr(intake, "DUE_INTERVAL", 0.05)
    monkeypatch.setattr(control, "INTERVAL", 0.02)
    monkeypatch.setattr(relay, "INTERVAL", 0.05)
    monkeypatch.setattr(handles, "_POLL_FIRST", 0.002)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell sets is not what a test means."""
    for name in os.environ:
        if name.startswith("OMNIDAEMON_") or name in FOREIGN:
            monkeypatch.delenv(name)


@pytest.fixture
def bus() -> MemoryEventBus:
    return MemoryEventBus()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_sdk(bus: MemoryEventBus, store: MemoryStore) -> MakeSDK:
    def make(**settings: Any) -> OmniDaemonSDK:
        return OmniDaemonSDK(event_bus=bus.twin(), store=store.twin(), **settings)

    return make


@pytest.fixture
def sdk(make_sdk: MakeSDK) -> OmniDaemonSDK:
    return make_sdk()


@pytest.fixture
def serve() -> Serve:
    @contextlib.asynccontextmanager
    async def serving(*sdks: OmniDaemonSDK) -> AsyncGenerator[None]:
        for sdk in sdks:
            await sdk.start()
        try:
            yield
        finally:
            for sdk in sdks:
                await sdk.shutdown(grace=0.05)

    return serving


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine for at most five seconds: a test that hangs fails with its own name."""

    def run_(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(work, 5))

    return run_


@pytest.fixture
def eventually() -> Callable[..., Coroutine[Any, Any, Any]]:
    """Await until a condition, plain or async, holds, and return what it gave."""

    async def wait(condition: Callable[[], Any], timeout: float = 2.0) -> Any:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError("the condition did not come true in time")
            await asyncio.sleep(0.005)

    return wait
