"""How a worker process writes its log: a line a record, as text or as JSON, on stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import Any

__all__ = ["announce", "announce_event", "configure"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What every record has; everything else on a record was given as `extra=`.
_ORDINARY = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Time, process, level, message; the traceback, if any, on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        where = "" if record.name.startswith("omnidaemon") else f"{record.name}: "
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = record.getMessage()
        if hasattr(record, "attempt"):
            # A line for an attempt, whatever its exception says.
            message = message.replace("\n", "\\n")
        text = f"{clock} {record.process} {record.levelname.lower():<7} {where}{message}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # It may come from an event, and must not steer the terminal.
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a record, with its extras as fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        fields: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _ORDINARY and name not in fields}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure(level: str, form: str) -> None:
    """Send what the process logs to stderr.

    Before the application is imported: if it configures logging itself, its word is the last one.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())


def announce(form: str, text: str, level: str = "info", **fields: Any) -> None:
    """Say on stderr what the user must see at any log level."""
    if form == "json":
        base = {"time": _utc(time.time()), "level": level, "logger": "omnidaemon.cli", "process": os.getpid()}
        text = json.dumps({**base, "message": text, **fields}, default=str)
    # In one piece, as several processes write there: `print` would write the line's end by itself.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def announce_event(form: str, text: str, **fields: Any) -> None:
    """Say on stderr that something has happened to this process, among the lines of its log."""
    if form == "text":
        text = f"{time.strftime('%H:%M:%S')} {os.getpid()} info    {text}"
    announce(form, text, **fields)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
