"""Finds adapters by entry point, loads only the chosen one, and says exactly what is wrong."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from omnidaemon.model.errors import (
    BackendConflict,
    BackendImportError,
    BackendIncompatible,
    BackendNotInstalled,
    ForeignPackage,
    UnknownBackend,
)
from omnidaemon.ports.event_bus import PORT_VERSION

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BUSES", "STORES", "WORDS", "check", "check_foreign", "installed", "load", "normalise"]

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
WORDS = {BUSES: "event bus", STORES: "store"}
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
    from importlib import metadata  # slow to import, and needed by nobody who only publishes in a test

    try:
        version = str(metadata.version("omnidaemon"))
    except metadata.PackageNotFoundError:
        return
    parts = version.split(".")
    if [int(part) if part.isdigit() else 0 for part in parts[:2]] < [0, 2]:
        raise ForeignPackage(
            f"the foreign distribution 'omnidaemon' {version} is installed and overwrites files of omnidaemon-core;"
            f" run: {CURE}"
        )


def installed(group: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group by normalised name."""
    from importlib import metadata

    found: dict[str, list[EntryPoint]] = {}
    for point in metadata.entry_points(group=group):
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
    word, points = WORDS[group], installed(group)
    key = normalise(name)
    if key not in points:
        raise _missing(group, name, source, sorted(points))
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
    return check(group, adapter, f"the {word} {name!r} of {_dist(point)}", _dist(point).split(" ")[0])


def _missing(group: str, name: str, source: str, there: list[str]) -> UnknownBackend | BackendNotInstalled:
    """Return the error for a name that nothing is installed for."""
    word, key = WORDS[group], normalise(name)
    package = KNOWN[group].get(key)
    if package is not None:
        return BackendNotInstalled(
            f"{source} asks for the {word} {name!r}, whose package is not installed; run: pip install {package}"
        )
    other = STORES if group == BUSES else BUSES
    close = difflib.get_close_matches(key, {*there, *KNOWN[group]}, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if key in KNOWN[other]:
        hint = (
            f" It is a {WORDS[other]}, set it there." if other == STORES else f" It is an {WORDS[other]}, set it there."
        )
    return UnknownBackend(
        f"{source} asks for the unknown {word} {name!r}.{hint} Installed: {', '.join(there) or 'none'}"
    )


def check(group: str, adapter: Any, what: str, package: str = "") -> Any:
    """Return ``adapter``, a class or an instance, if it is one for this port.

    Raises:
        BackendIncompatible: It lacks methods, was written for another port version, or is a class
            where an instance was to be given (then no ``package`` is).
    """
    if not package and isinstance(adapter, type):
        raise BackendIncompatible(f"{what} is a class; give an instance, a name or a URL")
    missing = [method for method in _NEEDED[group] if not callable(getattr(adapter, method, None))]
    if not hasattr(adapter, "capabilities"):
        missing.append("capabilities")
    if missing:
        raise BackendIncompatible(f"{what} is no {WORDS[group]}: it lacks {', '.join(missing)}")
    version = getattr(adapter, "port_version", None)
    if version != PORT_VERSION:
        newer = isinstance(version, int) and version > PORT_VERSION
        upgrade = "omnidaemon-core" if newer or not package else package
        raise BackendIncompatible(
            f"{what} was written for port version {version}, this is {PORT_VERSION}; run: pip install -U {upgrade}"
        )
    return adapter


def _dist(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
