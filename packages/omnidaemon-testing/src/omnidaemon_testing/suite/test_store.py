"""The store that ``--omnidaemon-store`` names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from omnidaemon.ports.store import Store
from omnidaemon_testing.contracts.store import StoreContract
from omnidaemon_testing.suite.backends import STORE_OPTION, factory

NEEDS = ("store",)


class TestStore(StoreContract):
    """The rules of a store."""

    @pytest.fixture
    def make_store(self, request: pytest.FixtureRequest, unique_prefix: str) -> Callable[..., Store]:
        """Build the adapter."""
        return factory(request.config, STORE_OPTION, unique_prefix, self.timing.lease)
