"""The contract on the memory adapters."""

import pytest

from omnidaemon_memory import MemoryBroker, MemoryEventBus
from omnidaemon_testing import EventBusContract


class TestMemoryEventBus(EventBusContract):
    @pytest.fixture
    def make_bus(self, unique_prefix):
        brokers = {}

        def make(namespace=unique_prefix, **settings):
            broker = brokers.setdefault(namespace, MemoryBroker())
            return MemoryEventBus(broker, lease=self.timing.lease, **settings)

        return make
