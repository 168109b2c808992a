"""OmniDaemon event bus (Redis Streams) and store on Redis 7 or Valkey."""
