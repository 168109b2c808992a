"""OmniDaemon event bus and store in process memory: the reference model of the contract."""

from omnidaemon_memory.broker import MemoryBroker
from omnidaemon_memory.bus import MemoryEventBus
from omnidaemon_memory.store import MemoryStore
from omnidaemon_memory.tables import MemoryTables

__all__ = ["MemoryBroker", "MemoryEventBus", "MemoryStore", "MemoryTables"]
