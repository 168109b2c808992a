"""The contract on a cluster, behind sentinels, over TLS, and across restarts of the server."""

import pytest

from omnidaemon_redis import RedisEventBus, RedisStore
from omnidaemon_testing import EventBusContract, StoreContract

pytestmark = pytest.mark.slow


def cluster_url(cluster):
    return "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in cluster.hosts)


class OnBus(EventBusContract):
    @pytest.fixture
    def make_bus(self, url, unique_prefix):
        def make(namespace=unique_prefix, **settings):
            return RedisEventBus(url, namespace=namespace, lease=self.timing.lease, **settings)

        return make


class OnStore(StoreContract):
    @pytest.fixture
    def make_store(self, url, unique_prefix):
        return lambda namespace=unique_prefix: RedisStore(url, namespace=namespace)


class OnCluster:
    @pytest.fixture
    def url(self, redis_cluster):
        return cluster_url(redis_cluster)


class BehindSentinel:
    @pytest.fixture
    def url(self, redis_sentinel):
        return redis_sentinel.url.replace("redis://", "redis+sentinel://")


class OverTLS:
    @pytest.fixture
    def url(self, redis_tls):
        return redis_tls.url


class Restarted:
    @pytest.fixture
    def url(self, redis_server):
        server = redis_server(appendfsync="always")

        def restart():
            server.kill()
            server.restart()

        self.restart_server = restart
        return server.url


class TestBusOnCluster(OnCluster, OnBus):
    pass


class TestStoreOnCluster(OnCluster, OnStore):
    pass


class TestBusBehindSentinel(BehindSentinel, OnBus):
    pass


class TestStoreBehindSentinel(BehindSentinel, OnStore):
    pass


class TestBusOverTLS(OverTLS, OnBus):
    pass


class TestStoreOverTLS(OverTLS, OnStore):
    pass


class TestBusRestarted(Restarted, OnBus):
    pass


class TestStoreRestarted(Restarted, OnStore):
    pass
