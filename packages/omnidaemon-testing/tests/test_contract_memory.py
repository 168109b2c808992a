"""The memory adapter keeps the whole contract."""

import pytest

from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing import ContractTiming, EventBusContract, StoreContract


class TestMemoryEventBus(EventBusContract):
    timing = ContractTiming(lease=0.3, quiet=0.06, slack=1.0)

    @pytest.fixture
    def make_bus(self, unique_prefix):
        brokers = {}

        def make(namespace=unique_prefix, topic_max_bytes=None):
            broker = brokers.setdefault(namespace, MemoryBroker())
            return MemoryEventBus(broker, lease=self.timing.lease, topic_max_bytes=topic_max_bytes)

        return make


class TestMemoryStore(StoreContract):
    timing = TestMemoryEventBus.timing

    @pytest.fixture
    def make_store(self, unique_prefix):
        tables = {}
        return lambda namespace=unique_prefix: MemoryStore(tables.setdefault(namespace, MemoryTables()))
