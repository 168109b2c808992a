"""The demo: a short play on SQLite, every line of which is read back from event bus or store."""
