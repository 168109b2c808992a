"""The contract every backend keeps, as tests to inherit, and a test runtime for agents.

Everything is imported when it is first asked for: the pytest plugin of this package is loaded in
every pytest run of every user, and must cost nothing there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnidaemon_testing.contracts.event_bus import EventBusContract
    from omnidaemon_testing.contracts.runner import RunnerContract
    from omnidaemon_testing.contracts.store import StoreContract
    from omnidaemon_testing.contracts.worker import WorkerContract
    from omnidaemon_testing.runtime import TestRuntime
    from omnidaemon_testing.timing import ContractTiming

__all__ = [
    "ContractTiming",
    "EventBusContract",
    "RunnerContract",
    "StoreContract",
    "TestRuntime",
    "WorkerContract",
]

_HOME = {
    "ContractTiming": "omnidaemon_testing.timing",
    "EventBusContract": "omnidaemon_testing.contracts.event_bus",
    "RunnerContract": "omnidaemon_testing.contracts.runner",
    "StoreContract": "omnidaemon_testing.contracts.store",
    "TestRuntime": "omnidaemon_testing.runtime",
    "WorkerContract": "omnidaemon_testing.contracts.worker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
