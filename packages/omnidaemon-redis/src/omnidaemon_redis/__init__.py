"""OmniDaemon event bus (Redis Streams) and store on Redis 7 or Valkey."""

from omnidaemon_redis.event_bus import RedisEventBus
from omnidaemon_redis.store import RedisStore

__all__ = ["RedisEventBus", "RedisStore"]
