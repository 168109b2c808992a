"""Faults on demand: adapters that fail, lose replies or drop calls while a gate says so."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from omnidaemon.model.errors import BackendUnavailable

__all__ = ["Faulty", "Gate"]

_LIFE = frozenset({"close", "twin"})


class Gate:
    """What goes wrong now, for all adapters behind it; may be set from any thread.

    Attributes:
        down: Nothing is reachable.
        broken: Names of methods that cannot be reached.
        lossy: Names of methods that are applied and whose reply is lost.
        dropped: Names of methods that answer None and are not applied.
    """

    def __init__(self) -> None:
        self.down = False
        self.broken: set[str] = set()
        self.lossy: set[str] = set()
        self.dropped: set[str] = set()

    def check(self, name: str) -> None:
        """Raise ``BackendUnavailable`` if the method cannot be reached."""
        if (self.down or name in self.broken) and name not in _LIFE:
            raise BackendUnavailable(f"{name}: not reachable (an injected fault)")


class Faulty:
    """A bus or store behind a gate; everything else is passed through."""

    def __init__(self, inner: Any, gate: Gate) -> None:
        self.inner, self.gate = inner, gate

    def __repr__(self) -> str:
        return f"Faulty({self.inner!r})"

    def twin(self, **options: Any) -> Faulty:
        """Return a twin behind the same gate."""
        return Faulty(self.inner.twin(**options), self.gate)

    def fuse(self, bus: Any) -> Any:
        """Return the fused arrangement behind both gates, if there is one."""
        fusion = self.inner.fuse(bus.inner if isinstance(bus, Faulty) else bus)
        return None if fusion is None else Faulty(fusion, self.gate)

    def history(self, *arguments: Any) -> AsyncIterator[Any]:
        """Check once, then pass through."""
        self.gate.check("history")
        found: AsyncIterator[Any] = self.inner.history(*arguments)
        return found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        return self._guarded(name, value) if inspect.iscoroutinefunction(value) else value

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.gate.check(name)
            if name in self.gate.dropped:
                return None
            answer = await method(*arguments, **named)
            self.gate.check(name)  # it went down while the call was on its way: the reply is lost
            if name in self.gate.lossy:
                raise BackendUnavailable(f"{name}: the reply was lost (an injected fault)")
            return answer

        return call
