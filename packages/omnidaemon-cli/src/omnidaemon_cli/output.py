"""What commands print: one JSON document, or text for people. No colour on a pipe, and nothing cut off there."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AsJson", "clean", "console", "emit", "line", "moment", "pairs", "pretty", "table"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {
    "active": "green",
    "canceled": "yellow",
    "completed": "green",
    "degraded": "yellow",
    "down": "red",
    "failed": "red",
    "input_required": "cyan",
    "ok": "green",
    "paused": "yellow",
    "ready": "green",
    "rejected": "yellow",
    "running": "green",
    "warning": "yellow",
    "working": "cyan",
}


def emit(document: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print ``document`` as JSON, or call what prints it for people."""
    if as_json:
        print(json.dumps(document, indent=2, allow_nan=False, default=str))
    else:
        text()


@cache
def console() -> Console:
    """Return the Rich console of stdout; plain whenever that is no terminal, whatever the environment says."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )


def line(text: str = "", style: str | None = None) -> None:
    """Print one line."""
    console().print(clean(text), style=style)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a header; on a terminal, words that are a state have its colour."""
    cells = [["" if value is None else clean(str(value)) for value in row] for row in rows]
    if not console().is_terminal:
        _plain_table([list(columns), *cells])
        return
    from rich.table import Table
    from rich.text import Text

    # The first column is the one to copy from: it is never wrapped.
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number, name in enumerate(columns):
        shown.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console().print(shown, soft_wrap=False)


def _plain_table(rows: list[list[str]]) -> None:
    rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def pairs(rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values below each other, leaving out what is None."""
    for name, value in rows:
        if value is not None:
            text = clean(str(value))
            console().print(f"{name:<12}", end="", style="bold")
            console().print(text, style=_STYLES.get(text))


def pretty(value: Any) -> str:
    """Return a JSON value for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def moment(seconds: float | None) -> str | None:
    """Return a time on the clock of whoever reads it."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def clean(text: str) -> str:
    """Return text that cannot steer a terminal: it may come from an event."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
