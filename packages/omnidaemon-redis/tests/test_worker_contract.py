"""The rules of bus, store and worker together, on one Redis."""

import pytest

from omnidaemon_redis import RedisEventBus, RedisStore
from omnidaemon_testing import WorkerContract

pytestmark = pytest.mark.slow


class TestRedisWorker(WorkerContract):
    @pytest.fixture
    def server(self, redis_server):
        """A server of the test's own, which it may restart; what was confirmed is on its disk."""
        server = redis_server(appendfsync="always")

        def restart():
            server.kill()
            server.restart()

        self.restart_server = restart
        return server

    @pytest.fixture
    def make_bus(self, server, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return RedisEventBus(server.url, namespace=namespace, lease=self.timing.lease, **settings)

        return make

    @pytest.fixture
    def make_store(self, server, unique_prefix):
        return lambda namespace=unique_prefix: RedisStore(server.url, namespace=namespace)
