"""The contract on the SQLite adapters."""

import pytest

from omnidaemon_sqlite import SQLiteEventBus
from omnidaemon_testing import EventBusContract


class TestSQLiteEventBus(EventBusContract):
    @pytest.fixture
    def make_bus(self, tmp_path, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return SQLiteEventBus(tmp_path / "omni.db", namespace=namespace, lease=self.timing.lease, **settings)

        return make
