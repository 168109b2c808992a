"""The contract on the memory adapters, on the real clock."""

import pytest

from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing import ContractTiming, EventBusContract, StoreContract

SHORT = ContractTiming(lease=0.3, quiet=0.06)


class TestMemoryEventBus(EventBusContract):
    timing = SHORT

    @pytest.fixture
    def make_bus(self, unique_prefix):
        brokers = {}

        def make(namespace=unique_prefix, **settings):
            broker = brokers.setdefault(namespace, MemoryBroker())
            return MemoryEventBus(broker, lease=self.timing.lease, **settings)

        return make


class TestMemoryStore(StoreContract):
    timing = SHORT

    @pytest.fixture
    def make_store(self, unique_prefix):
        tables = {}
        return lambda namespace=unique_prefix: MemoryStore(tables.setdefault(namespace, MemoryTables()))
