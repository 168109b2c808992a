"""Runs single contract tests without pytest and in virtual time: how the suite is tested itself."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from omnidaemon_testing._running import plain
from omnidaemon_testing._virtual import LoopClock, VirtualLoop
from omnidaemon_testing.contracts.base import ContractBase
from omnidaemon_testing.contracts.event_bus.base import BusBase
from omnidaemon_testing.contracts.store.base import StoreBase
from omnidaemon_testing.contracts.worker.base import WorkerBase

__all__ = ["Verdict", "judge", "rule_of"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a test says about a backend: ``kept``, ``broken`` (by an assertion), ``absent`` or ``error``."""

    outcome: str
    why: str = ""


def rule_of(test: str) -> str:
    """Return the rule that a test is named after."""
    return test.split("_")[1].upper()


def judge(
    contract: type[ContractBase],
    test: str,
    *,
    make_bus: Callable[..., Any] | None = None,
    make_store: Callable[..., Any] | None = None,
) -> Verdict:
    """Run one test of a contract on the memory adapters that the factories make."""
    instance = type(f"Judged{contract.__name__}", (contract,), {"loop_factory": VirtualLoop, "clock": LoopClock()})()
    instance.begin("judged")
    if isinstance(instance, BusBase) and make_bus is not None:
        instance.use_bus(make_bus)
    if isinstance(instance, StoreBase) and make_store is not None:
        instance.use_store(make_store)
    if isinstance(instance, WorkerBase) and make_bus is not None and make_store is not None:
        instance.use_both(make_bus, make_store)
    function = getattr(instance, test)
    try:
        (plain(instance, function) if inspect.iscoroutinefunction(function) else function)()
    except AssertionError as error:
        return Verdict("broken", str(error))
    except pytest.skip.Exception as skipped:
        return Verdict("absent", str(skipped))
    except BaseException as error:  # noqa: BLE001 - a time-out and an interrupt are errors too
        return Verdict("error", "".join(traceback.format_exception(error)))
    return Verdict("kept")
