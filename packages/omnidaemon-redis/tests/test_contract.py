"""The contract on the Redis adapters."""

import pytest

from omnidaemon_redis import RedisEventBus, RedisStore
from omnidaemon_testing import EventBusContract, StoreContract


class TestRedisEventBus(EventBusContract):
    @pytest.fixture
    def make_bus(self, redis_url, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return RedisEventBus(redis_url, namespace=namespace, lease=self.timing.lease, **settings)

        return make


class TestRedisStore(StoreContract):
    @pytest.fixture
    def make_store(self, redis_url, unique_prefix):
        return lambda namespace=unique_prefix: RedisStore(redis_url, namespace=namespace)
