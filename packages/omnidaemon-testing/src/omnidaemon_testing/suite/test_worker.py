"""Bus and store that the options name, with the real worker between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store
from omnidaemon_testing.contracts.worker import WorkerContract
from omnidaemon_testing.suite.backends import BUS_OPTION, STORE_OPTION, factory

NEEDS = ("event_bus", "store")


class TestWorker(WorkerContract):
    """The rules of bus, store and worker together."""

    @pytest.fixture
    def make_bus(self, request: pytest.FixtureRequest, unique_prefix: str) -> Callable[..., EventBus]:
        """Build the bus."""
        return factory(request.config, BUS_OPTION, unique_prefix, self.timing.lease)

    @pytest.fixture
    def make_store(self, request: pytest.FixtureRequest, unique_prefix: str) -> Callable[..., Store]:
        """Build the store."""
        return factory(request.config, STORE_OPTION, unique_prefix, self.timing.lease)
