"""Finds adapters by entry point, loads only the chosen one, and says exactly what is wrong."""

from __future__ import annotations

import difflib
import importlib.metadata
from typing import Any

from omnidaemon.model.errors import (
    BackendConflict,
    BackendImportError,
    BackendIncompatible,
    BackendNotInstalled,
    ForeignPackage,
    UnknownBackend,
)
from omnidaemon.ports.event_bus import PORT_VERSION

__all__ = ["BUSES", "STORES", "check_foreign", "installed", "load", "normalise"]

BUSES = "omnidaemon.event_buses"
STORES = "omnidaemon.stores"
# Names of ours and the package that brings each; the message for a missing one needs them.
KNOWN = {
    BUSES: {
        "memory": "omnidaemon-memory",
        "sqlite": "omnidaemon-sqlite",
        "redis_stream": "omnidaemon-redis",
        "redis": "omnidaemon-redis",
        "kafka": "omnidaemon-kafka",
        "rabbitmq": "omnidaemon-rabbitmq",
        "nats": "omnidaemon-nats",
    },
    STORES: {
        "memory": "omnidaemon-memory",
        "sqlite": "omnidaemon-sqlite",
        "json": "omnidaemon-json",
        "redis": "omnidaemon-redis",
        "postgresql": "omnidaemon-postgres",
        "postgres": "omnidaemon-postgres",
        "mongodb": "omnidaemon-mongo",
        "mongo": "omnidaemon-mongo",
    },
}
_WORD = {BUSES: "event bus", STORES: "store"}
_NEEDED = {
    BUSES: (
        "open",
        "close",
        "ensure",
        "publish",
        "read",
        "ack",
        "extend",
        "give_back",
        "history",
        "trim",
        "info",
        "delete",
    ),
    STORES: ("open", "close", "claim", "due", "renew", "settle", "adopt", "decide", "outbox", "records", "get", "put"),
}
CURE = "pip uninstall -y omnidaemon && pip install --force-reinstall --no-deps omnidaemon-core omnidaemon-cli"


def normalise(name: str) -> str:
    """Return a backend's name as it is compared: lower case, ``_`` for ``-``."""
    return name.strip().lower().replace("-", "_")


def check_foreign() -> None:
    """Refuse to work beside the foreign distribution ``omnidaemon``, which overwrites our files.

    Raises:
        ForeignPackage: It is installed; the message holds the cure.
    """
    try:
        version = importlib.metadata.version("omnidaemon")
    except importlib.metadata.PackageNotFoundError:
        return
    parts = version.split(".")
    if [int(part) if part.isdigit() else 0 for part in parts[:2]] < [0, 2]:
        raise ForeignPackage(
            f"the foreign distribution 'omnidaemon' {version} is installed and overwrites files of omnidaemon-core;"
            f" run: {CURE}"
        )


def installed(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Return the entry points of a group by normalised name."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=group):
        same = found.setdefault(normalise(point.name), [])
        if all(point.value != other.value or _dist(point) != _dist(other) for other in same):
            same.append(point)
    return found


def load(group: str, name: str, source: str) -> Any:
    """Return the adapter class of that name.

    Args:
        group: ``BUSES`` or ``STORES``.
        name: As the user wrote it.
        source: Where it was written, for the message: a variable or an argument.

    Raises:
        BackendNotInstalled: Ours, and its package is missing.
        UnknownBackend: Nobody's.
        BackendConflict: Two distributions claim it.
        BackendImportError: Its import failed.
        BackendIncompatible: It lacks methods, or was written for another port version.
    """
    word, points = _WORD[group], installed(group)
    key = normalise(name)
    if key not in points:
        package = KNOWN[group].get(key)
        if package is not None:
            raise BackendNotInstalled(
                f"{source} asks for the {word} {name!r}, whose package is not installed; run: pip install {package}"
            )
        close = difflib.get_close_matches(key, {*points, *KNOWN[group]}, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownBackend(
            f"{source} asks for the unknown {word} {name!r}.{hint} Installed: {', '.join(sorted(points)) or 'none'}"
        )
    candidates = points[key]
    if len(candidates) > 1:
        owners = ", ".join(sorted(_dist(point) for point in candidates))
        raise BackendConflict(f"{source}: the {word} {name!r} is claimed by {owners}; uninstall all but one")
    point = candidates[0]
    try:
        adapter = point.load()
    except Exception as error:
        raise BackendImportError(
            f"the {word} {name!r} of {_dist(point)} cannot be imported ({type(error).__name__}: {error});"
            f" reinstall it: pip install --force-reinstall {_dist(point).split(' ')[0]}"
        ) from error
    return check(group, adapter, f"{name!r} of {_dist(point)}")


def check(group: str, adapter: Any, what: str) -> Any:
    """Return ``adapter`` if it looks like one; raises ``BackendIncompatible`` with what is missing."""
    missing = [method for method in _NEEDED[group] if not callable(getattr(adapter, method, None))]
    if missing:
        raise BackendIncompatible(f"{what} is not an {_WORD[group]}: it lacks {', '.join(missing)}")
    version = getattr(adapter, "port_version", None)
    if version != PORT_VERSION:
        raise BackendIncompatible(
            f"{what} was written for port version {version}, this is {PORT_VERSION};"
            f" upgrade {'it' if version is None or version < PORT_VERSION else 'omnidaemon-core'}"
        )
    return adapter


def _dist(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
