"""The composition root: the only reader of the environment. Chooses and builds bus and store."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnidaemon import plugins
from omnidaemon.model.errors import ConfigurationError, StoreTooNarrow
from omnidaemon.model.names import check_namespace
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.store import Store
from omnidaemon.settings import Settings, settings_from

__all__ = ["Chosen", "choose", "environment", "logger"]

logger = logging.getLogger("omnidaemon")
_VARIABLES = {
    "redis_stream": ("REDIS_URL",),
    "redis": ("REDIS_URL",),
    "kafka": ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"),
    "rabbitmq": ("RABBITMQ_URL",),
    "nats": ("NATS_URL",),
    "postgresql": ("POSTGRES_URL",),
    "postgres": ("POSTGRES_URL",),
    "mongodb": ("MONGODB_URI",),
    "mongo": ("MONGODB_URI",),
    "json": ("JSON_STORAGE_DIR",),
    "sqlite": ("SQLITE_PATH",),
}
# Which name of the other port is the same technology.
_PARTNER = {
    "redis_stream": "redis",
    "redis": "redis",
    "sqlite": "sqlite",
    "memory": "memory",
}
_SCHEMES = {
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "sqlite": "sqlite",
    "memory": "memory",
    "kafka": "kafka",
    "kafka+ssl": "kafka",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "nats": "nats",
    "tls": "nats",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
}
_WIDTH = {"process": 0, "machine": 1, "network": 2}


@dataclass(slots=True)
class Chosen:
    """What was chosen and why; bus and store are unopened.

    Attributes:
        why: One line for each port, for ``run`` and ``doctor``.
        warnings: What the user should know, such as unknown variables.
    """

    bus: EventBus
    store: Store
    settings: Settings
    why: dict[str, str]
    warnings: list[str]


def environment() -> Mapping[str, str]:
    """Return the process environment."""
    return os.environ


def choose(
    event_bus: EventBus | str | None,
    store: Store | str | None,
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    connect_timeout: float = 5.0,
) -> Chosen:
    """Resolve bus and store from arguments and environment (``api.md`` §6), without any I/O.

    Args:
        event_bus: A name, a URL, an instance, or None for ``EVENT_BUS_TYPE``.
        store: Likewise, for ``STORAGE_BACKEND``.
        given: Settings given to the constructor.
        environ: Instead of the process environment.
        connect_timeout: Seconds, where the settings say none.

    Raises:
        ConfigurationError: Anything that cannot be; see :mod:`omnidaemon.plugins`.
    """
    environ = environment() if environ is None else environ
    settings, warnings = settings_from(environ, given)
    if "REDIS_KEY_PREFIX" in environ and "namespace" not in settings.model_fields_set:
        settings = settings.model_copy(update={"namespace": environ["REDIS_KEY_PREFIX"]})
    check_namespace(settings.namespace)
    bus_name, bus_why = _name(event_bus, "EVENT_BUS_TYPE", environ)
    store_name, store_why = _name(store, "STORAGE_BACKEND", environ)
    if bus_name is None and store_name is None:
        bus_name = store_name = "sqlite"
        bus_why = store_why = "default, as neither EVENT_BUS_TYPE nor STORAGE_BACKEND is set"
    if bus_name is None and store_name is not None:
        bus_name, bus_why = _partner(plugins.BUSES, store_name, store_why, "EVENT_BUS_TYPE")
    if store_name is None and bus_name is not None:
        # The port that is set is resolved first: its error is the one to mend.
        if isinstance(event_bus, str) or event_bus is None:
            plugins.load(
                plugins.BUSES, bus_name.partition("://")[0] if "://" not in bus_name else _scheme(bus_name), bus_why
            )
        store_name, store_why = _partner(plugins.STORES, bus_name, bus_why, "STORAGE_BACKEND")
    base = {
        "namespace": settings.namespace,
        "connect_timeout": connect_timeout if settings.connect_timeout is None else settings.connect_timeout,
        "retention": settings.retention,
        "topic_max_bytes": settings.topic_max_bytes,
        "metrics_ttl": settings.metrics_ttl,
        "lease": 15.0,
        "environ": environ,
    }
    bus: EventBus = _build(plugins.BUSES, event_bus, bus_name, bus_why, base)
    made: Store = _build(plugins.STORES, store, store_name, store_why, base)
    _check_scope(bus, made, settings)
    if settings.max_event_bytes > bus.capabilities.max_event_bytes:
        raise ConfigurationError(
            f"max_event_bytes={settings.max_event_bytes} is more than the event bus {bus.capabilities.name!r} holds"
            f" ({bus.capabilities.max_event_bytes}); lower OMNIDAEMON_MAX_EVENT_BYTES"
        )
    why = {"event_bus": f"{bus.capabilities.name} ({bus_why})", "store": f"{made.capabilities.name} ({store_why})"}
    return Chosen(bus, made, settings, why, warnings)


def _name(given: Any, variable: str, environ: Mapping[str, str]) -> tuple[str | None, str]:
    argument = "event_bus=" if variable == "EVENT_BUS_TYPE" else "store="
    if isinstance(given, str):
        return given, f"{argument}{_redacted(given)}"
    if given is not None:
        return given.capabilities.name if hasattr(given, "capabilities") else "", f"{argument} an instance"
    value = environ.get(variable, "").strip()
    return (value, f"{variable}={value}") if value else (None, "")


def _partner(group: str, other: str, why: str, variable: str) -> tuple[str, str]:
    scheme = _scheme(other)
    name = _PARTNER.get(plugins.normalise(scheme))
    if name is None or name not in plugins.installed(group):
        word = "store" if group == plugins.STORES else "event bus"
        raise ConfigurationError(
            f"{why} is set and {variable} is not, and no {word} of the same technology is installed;"
            f" add a line such as: export {variable}={'redis' if group == plugins.STORES else 'redis_stream'}"
        )
    return (other if "://" in other else name), f"same technology as {why}"


def _scheme(name: str) -> str:
    head, colon, _ = name.partition("://")
    if not colon:
        return name
    if head.lower() not in _SCHEMES:
        raise ConfigurationError(f"the URL scheme {head!r} belongs to no backend; known: {', '.join(sorted(_SCHEMES))}")
    return _SCHEMES[head.lower()]


def _build(group: str, given: Any, name: str | None, why: str, base: dict[str, Any]) -> Any:
    if given is not None and not isinstance(given, str):
        return plugins.check(group, given, repr(given))
    if name is None:
        raise ConfigurationError("set EVENT_BUS_TYPE and STORAGE_BACKEND")
    scheme = _scheme(name)
    url: str | None = name if "://" in name else None
    if url is None:
        for variable in _VARIABLES.get(plugins.normalise(scheme), ()):
            url = base["environ"].get(variable) or url
            if url:
                break
    adapter = plugins.load(group, scheme, why)
    return adapter.from_settings({**base, "url": url})


def _check_scope(bus: EventBus, store: Store, settings: Settings) -> None:
    if settings.allow_local_store or _WIDTH[store.scope] >= _WIDTH[bus.scope]:
        return
    raise StoreTooNarrow(
        f"the event bus {bus.capabilities.name!r} at {bus.location} is reachable from a whole {bus.scope}, the store"
        f" {store.capabilities.name!r} at {store.location} only from one {store.scope}: workers elsewhere would not see"
        " its claims, fences and pauses. Choose a store that reaches as far (STORAGE_BACKEND=redis), or, with all"
        " workers in one place, set OMNIDAEMON_ALLOW_LOCAL_STORE=1"
    )


def _redacted(text: str) -> str:
    if "://" not in text or "@" not in text:
        return text
    scheme, _, rest = text.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}"
