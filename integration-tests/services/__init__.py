"""How each real server of the tests is had: one module a server, all with the same few functions.

``source()`` says where a server would come from (a URL in the environment, Docker, a wheel or a binary, apt), and
``available()`` whether there is one; ``provision()`` gets it or raises `ServiceUnavailableError` with what was tried;
``start(port, folder)`` starts one and returns its URL; ``stop``, ``kill``, ``freeze`` and ``thaw`` take that URL.

By hand: ``python -m services up redis``. In tests: the fixtures of `services.plugin`.
"""

from __future__ import annotations

import os

NAMES = ("redis",)
"""Servers that the tests know."""


class ServiceUnavailableError(RuntimeError):
    """No way to a server was found; the message says what was tried and what to do."""


def wanted() -> frozenset[str]:
    """The servers of this run: all, or those that ``OMNIDAEMON_TEST_SERVICES`` names (empty: none)."""
    chosen = os.environ.get("OMNIDAEMON_TEST_SERVICES")
    if chosen is None:
        return frozenset(NAMES)
    names = frozenset(name.strip().lower() for name in chosen.split(",") if name.strip())
    if unknown := names - set(NAMES):
        msg = f"OMNIDAEMON_TEST_SERVICES={chosen!r}: unknown {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}"
        raise ServiceUnavailableError(msg)
    return names
