"""OmniDaemon event bus and store in one SQLite file: durable, no server."""

from omnidaemon_sqlite.bus import SQLiteEventBus
from omnidaemon_sqlite.store import SQLiteStore

__all__ = ["SQLiteEventBus", "SQLiteStore"]
