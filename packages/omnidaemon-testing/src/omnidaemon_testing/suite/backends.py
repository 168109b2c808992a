"""Finds and builds what the suite was asked to test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from omnidaemon import plugins
from omnidaemon.bootstrap import environment
from omnidaemon.model.errors import OmniDaemonError
from omnidaemon_testing.timing import ContractTiming

__all__ = ["BUS_OPTION", "STORE_OPTION", "check", "factory", "suite_timing"]

BUS_OPTION, STORE_OPTION = "--omnidaemon-event-bus", "--omnidaemon-store"
_GROUPS = {BUS_OPTION: plugins.BUSES, STORE_OPTION: plugins.STORES}


def check(config: pytest.Config) -> None:
    """Load what is named by the options.

    Raises:
        pytest.UsageError: It cannot be found or loaded; the message says why.
    """
    for option in _GROUPS:
        if config.getoption(option):
            try:
                _load(config, option)
            except OmniDaemonError as error:
                raise pytest.UsageError(str(error)) from error


def _load(config: pytest.Config, option: str) -> tuple[Any, str | None]:
    name, _, url = str(config.getoption(option)).partition("=")
    return plugins.load(_GROUPS[option], name, option), url or None


def suite_timing(config: pytest.Config) -> ContractTiming:
    """Return the times of this run."""
    return ContractTiming().scaled(float(config.getoption("omnidaemon_time_scale") or 1.0))


def factory(config: pytest.Config, option: str, prefix: str, lease: float) -> Callable[..., Any]:
    """Return a factory of unopened adapters of the kind that an option names."""
    adapter, url = _load(config, option)

    def make(namespace: str = prefix, **settings: Any) -> Any:
        base = {
            "url": url,
            "namespace": namespace,
            "connect_timeout": 10.0,
            "lease": lease,
            "retention": 7 * 86_400.0,
            "metrics_ttl": 25 * 3600.0,
            "topic_max_bytes": None,
            "environ": environment(),
        }
        return adapter.from_settings({**base, **settings})

    return make
