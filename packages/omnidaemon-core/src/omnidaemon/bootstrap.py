"""The composition root: the only reader of the environment. Chooses and builds bus and store."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnidaemon import plugins
from omnidaemon.model.errors import ConfigurationError, InvalidName, StoreTooNarrow
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
_PORTS = {plugins.BUSES: ("event_bus=", "EVENT_BUS_TYPE"), plugins.STORES: ("store=", "STORAGE_BACKEND")}
# What an error proposes, the first that is installed.
_EXAMPLES = {plugins.BUSES: ("redis_stream", "sqlite", "memory"), plugins.STORES: ("redis", "postgresql", "sqlite")}
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
    bus_asked = _asked(plugins.BUSES, event_bus, environ)
    store_asked = _asked(plugins.STORES, store, environ)
    if bus_asked is None and store_asked is None:
        why = "default, as neither EVENT_BUS_TYPE nor STORAGE_BACKEND is set"
        bus_asked, store_asked = _Asked(None, "sqlite", why), _Asked(None, "sqlite", why)
    # The port that is set is resolved first: its error is the one to mend.
    if bus_asked is None and store_asked is not None:
        store_asked.load(plugins.STORES)
        bus_asked = store_asked.partner(plugins.BUSES)
    elif store_asked is None and bus_asked is not None:
        bus_asked.load(plugins.BUSES)
        store_asked = bus_asked.partner(plugins.STORES)
    assert bus_asked is not None  # noqa: S101 - one of the branches above made it
    assert store_asked is not None  # noqa: S101
    settings = _named(settings, environ, (bus_asked, store_asked))
    base = {
        "namespace": settings.namespace,
        "connect_timeout": connect_timeout if settings.connect_timeout is None else settings.connect_timeout,
        "retention": settings.retention,
        "topic_max_bytes": settings.topic_max_bytes,
        "metrics_ttl": settings.metrics_ttl,
        "lease": 15.0,
        "environ": environ,
    }
    bus: EventBus = bus_asked.build(plugins.BUSES, base)
    made: Store = store_asked.build(plugins.STORES, base)
    _check_scope(bus, made, settings)
    if settings.max_event_bytes > bus.capabilities.max_event_bytes:
        raise ConfigurationError(
            f"max_event_bytes={settings.max_event_bytes} is more than the event bus {bus.capabilities.name!r} holds"
            f" ({bus.capabilities.max_event_bytes}); lower OMNIDAEMON_MAX_EVENT_BYTES"
        )
    reasons = {
        "event_bus": f"{bus.capabilities.name} ({bus_asked.why})",
        "store": f"{made.capabilities.name} ({store_asked.why})",
    }
    return Chosen(bus, made, settings, reasons, warnings)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for at one port: an instance, or a name or URL; and who asks for it."""

    instance: Any
    name: str
    why: str

    @property
    def scheme(self) -> str:
        """The backend's name, also where a URL was given."""
        return self.name.partition("://")[0]

    def backend(self, group: str) -> str:
        """Return the name under which the adapter is registered.

        Raises:
            ConfigurationError: The scheme of the URL is nobody's.
        """
        head = self.scheme.lower()
        if "://" not in self.name:
            return self.name
        if head in _SCHEMES:
            return _SCHEMES[head]
        if plugins.normalise(head) in plugins.installed(group):
            return head
        raise ConfigurationError(
            f"{self.why}: the URL scheme {head!r} belongs to no backend; known: {', '.join(sorted(_SCHEMES))}"
        )

    def load(self, group: str) -> Any:
        """Return the adapter's class, or the instance."""
        return plugins.load(group, self.backend(group), self.why) if self.instance is None else self.instance

    def partner(self, group: str) -> _Asked:
        """Return the same technology at the other port.

        Raises:
            ConfigurationError: It has none, or none that is installed.
        """
        mine = plugins.normalise(self.backend(plugins.BUSES if group == plugins.STORES else plugins.STORES))
        name, there = _PARTNER.get(mine, mine), sorted(plugins.installed(group))
        if name in there:
            return _Asked(None, self.name if "://" in self.name else name, f"same technology as {self.why}")
        word, variable = plugins.WORDS[group], _PORTS[group][1]
        example = next((known for known in _EXAMPLES[group] if known in there), _EXAMPLES[group][0])
        raise ConfigurationError(
            f"{self.why} is set and {variable} is not, and no {word} of the same technology is installed (installed:"
            f" {', '.join(there) or 'none'}); add a line such as: export {variable}={example}"
        )

    def build(self, group: str, base: dict[str, Any]) -> Any:
        """Return the unopened adapter."""
        adapter = self.load(group)
        if self.instance is not None:
            return adapter
        url = self.name if "://" in self.name else _url(self.backend(group), base["environ"])
        return adapter.from_settings({**base, "url": url})


def _asked(group: str, given: Any, environ: Mapping[str, str]) -> _Asked | None:
    argument, variable = _PORTS[group]
    if isinstance(given, str):
        return _Asked(None, given, f"{argument}{_redacted(given)}")
    if given is not None:
        plugins.check(group, given, f"{argument}{given!r:.80}")
        return _Asked(given, given.capabilities.name, f"{argument} an instance")
    value = environ.get(variable, "").strip()
    return _Asked(None, value, f"{variable}={_redacted(value)}") if value else None


def _url(backend: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL, or path, that the environment gives for a backend.

    Raises:
        ConfigurationError: It is the URL of something else.
    """
    name = plugins.normalise(backend)
    for variable in _VARIABLES.get(name, ()):
        url = environ.get(variable, "").strip()
        head, colon, _ = url.partition("://")
        ours = sorted(scheme for scheme, owner in _SCHEMES.items() if owner == _PARTNER.get(name, name))
        if colon and ours and head.lower() not in ours:
            raise ConfigurationError(
                f"{variable}={_redacted(url)} has the scheme {head!r}; {backend!r} takes {', '.join(ours)}"
            )
        if url:
            return url
    return None


def _named(settings: Settings, environ: Mapping[str, str], asked: tuple[_Asked, _Asked]) -> Settings:
    """Return the settings with a namespace that every backend can hold."""
    variable, old = "OMNIDAEMON_NAMESPACE", environ.get("REDIS_KEY_PREFIX", "").strip()
    if old and "namespace" not in settings.model_fields_set and any("redis" in part.scheme for part in asked):
        variable, settings = "REDIS_KEY_PREFIX", settings.model_copy(update={"namespace": old})
    try:
        check_namespace(settings.namespace)
    except InvalidName as error:
        raise ConfigurationError(f"{error} ({variable} or namespace=)") from None
    return settings


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
    """Return a name, or a URL without what may be a secret."""
    scheme, colon, rest = text.partition("://")
    if not colon:
        return text
    rest = rest.partition("?")[0]
    return f"{scheme}://{'***@' if '@' in rest else ''}{rest.rpartition('@')[2]}"
