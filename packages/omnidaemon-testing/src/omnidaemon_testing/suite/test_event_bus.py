"""The event bus that ``--omnidaemon-event-bus`` names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from omnidaemon.ports.event_bus import EventBus
from omnidaemon_testing.contracts.event_bus import EventBusContract
from omnidaemon_testing.suite.backends import BUS_OPTION, factory

NEEDS = ("event_bus",)


class TestEventBus(EventBusContract):
    """The rules of a bus."""

    @pytest.fixture
    def make_bus(self, request: pytest.FixtureRequest, unique_prefix: str) -> Callable[..., EventBus]:
        """Build the adapter."""
        return factory(request.config, BUS_OPTION, unique_prefix, self.timing.lease)
