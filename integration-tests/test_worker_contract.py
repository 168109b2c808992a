"""The rules of bus, store and worker together, where bus and store are two systems: nothing is fused."""

import pytest

from omnidaemon_redis import RedisEventBus, RedisStore
from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore
from omnidaemon_testing import WorkerContract

pytestmark = pytest.mark.slow


class TestRedisBusWithSQLiteStore(WorkerContract):
    @pytest.fixture
    def make_bus(self, redis_url, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return RedisEventBus(redis_url, namespace=namespace, lease=self.timing.lease, **settings)

        return make

    @pytest.fixture
    def make_store(self, tmp_path, unique_prefix):
        return lambda namespace=unique_prefix: SQLiteStore(tmp_path / "omni.db", namespace=namespace)


class TestSQLiteBusWithRedisStore(WorkerContract):
    @pytest.fixture
    def make_bus(self, tmp_path, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return SQLiteEventBus(tmp_path / "omni.db", namespace=namespace, lease=self.timing.lease, **settings)

        return make

    @pytest.fixture
    def make_store(self, redis_url, unique_prefix):
        return lambda namespace=unique_prefix: RedisStore(redis_url, namespace=namespace)
