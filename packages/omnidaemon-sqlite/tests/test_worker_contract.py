"""The rules of bus, store and worker together, on one SQLite file."""

import pytest

from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore
from omnidaemon_testing import WorkerContract

pytestmark = pytest.mark.slow


class TestSQLiteWorker(WorkerContract):
    @pytest.fixture
    def make_bus(self, tmp_path, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return SQLiteEventBus(tmp_path / "omni.db", namespace=namespace, lease=self.timing.lease, **settings)

        return make

    @pytest.fixture
    def make_store(self, tmp_path, unique_prefix):
        return lambda namespace=unique_prefix: SQLiteStore(tmp_path / "omni.db", namespace=namespace)
