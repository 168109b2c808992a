"""The omnidaemon command: run workers, publish events, inspect and replay."""
