"""The Lua scripts of this package, put together from their parts."""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = ["Script", "script"]

_RUN = ("base", "marks", "entries", "finals", "runs")
_RUNS = (*_RUN, "lanes")
_PARTS: dict[str, tuple[str, ...]] = {
    "adopt": _RUNS,
    "agents": ("base",),
    "bus": ("base", "entries", "held"),
    "claim": (*_RUNS, "claims"),
    "clock": ("base",),
    "clear": ("base",),
    "count": ("base",),
    "decide": (*_RUNS, "counts"),
    "defer": ("base", "outbox_rows"),
    "due": (*_RUNS, "claims"),
    "enroll": ("base",),
    "finish": (*_RUN, "counts"),
    "follow": ("base",),
    "forget": ("base", "marks"),
    "history": ("base", "entries"),
    "hold": _RUN,
    "info": ("base", "entries", "held"),
    "metrics": ("base",),
    "note": _RUN,
    "notes": _RUN,
    "outbox": ("base", "outbox_rows"),
    "page": _RUN,
    "pending": ("base",),
    "progress": _RUN,
    "publish": ("base",),
    "read": ("base", "entries"),
    "retire": (*_RUNS, "outbox_rows"),
    "sent": ("base", "outbox_rows"),
    "settle": (*_RUNS, "counts", "outbox_rows"),
    "take": (*_RUNS, "claims"),
    "values": ("base",),
}


class Script:
    """A script's text and the name by which a server that has seen it runs it again."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        folder = files(__package__) / "lua"
        parts = ((folder / f"{part}.lua").read_text("utf-8") for part in (*_PARTS[name], name))
        self.name = name
        self.source = "\n".join(parts).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


_loaded: dict[str, Script] = {}


def script(name: str) -> Script:
    """Return a script by its name; its text is read once."""
    found = _loaded.get(name)
    if found is None:
        found = _loaded[name] = Script(name)
    return found
