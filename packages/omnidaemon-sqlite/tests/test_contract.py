"""The contract on the SQLite adapters."""

import pytest

from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore
from omnidaemon_testing import ContractTiming, EventBusContract, StoreContract

SHORT = ContractTiming(lease=0.3, quiet=0.06)


class TestSQLiteEventBus(EventBusContract):
    timing = SHORT

    @pytest.fixture
    def make_bus(self, tmp_path, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return SQLiteEventBus(tmp_path / "omni.db", namespace=namespace, lease=self.timing.lease, **settings)

        return make


class TestSQLiteStore(StoreContract):
    timing = SHORT

    @pytest.fixture
    def make_store(self, tmp_path, unique_prefix):
        return lambda namespace=unique_prefix: SQLiteStore(tmp_path / "omni.db", namespace=namespace)
