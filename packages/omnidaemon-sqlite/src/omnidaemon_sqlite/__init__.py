"""OmniDaemon event bus and store in one SQLite file: durable, no server."""
