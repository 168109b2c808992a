"""What bus and store are configured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from omnidaemon_redis._cluster import ClusterServer
from omnidaemon_redis._server import SingleServer
from omnidaemon_redis._url import Address, parse

__all__ = ["RedisSettings"]

# Longer than a script may take, shorter than what a lease of 15 s leaves after two missed renewals.
ANSWER_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Settings of one bus or store; durations are seconds."""

    address: Address
    namespace: str = "omni"
    connect_timeout: float = 5.0
    lease: float = 15.0
    topic_max_bytes: int | None = None
    metrics_ttl: float = 25 * 3600.0
    retention: float = 7 * 86_400.0
    timeout: float = ANSWER_TIMEOUT

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings that the runtime hands to adapters."""
        environ: Mapping[str, str] = settings.get("environ") or {}
        url = settings.get("url") or environ.get("REDIS_URL")
        return cls(
            parse(url),
            settings.get("namespace") or "omni",
            float(settings.get("connect_timeout") or 5.0),
            float(settings.get("lease") or 15.0),
            settings.get("topic_max_bytes"),
            float(settings.get("metrics_ttl") or 25 * 3600.0),
            _duration(settings, "retention", 7 * 86_400.0),
        )

    def server(self, name: str) -> SingleServer | ClusterServer:
        """Return an unopened server of that address."""
        kind = ClusterServer if self.address.kind == "cluster" else SingleServer
        return kind(self.address, self.connect_timeout, self.timeout, name)


def _duration(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name)
    return default if value is None else float(value)
