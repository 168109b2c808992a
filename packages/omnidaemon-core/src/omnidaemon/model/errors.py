"""Every error a user can meet, in one tree, arranged by what the caller can do.

::

    OmniDaemonError
    ├── ConfigurationError          change the code or the configuration
    │   ├── UnknownBackend          no adapter has that name
    │   ├── BackendNotInstalled     the name is known, its package is missing
    │   ├── BackendImportError      the package is there and does not import
    │   ├── BackendConflict         two packages claim one name
    │   ├── BackendIncompatible     not a bus / store, or written for another port version
    │   ├── UnsupportedCapability   this backend cannot do it; the message names those that can
    │   ├── StoreTooNarrow          the bus reaches further than the store
    │   └── ForeignPackage          a foreign distribution shadows this one
    ├── InvalidEvent (ValueError)   change the event
    │   ├── InvalidName             a topic, agent or namespace that no backend could hold
    │   ├── InvalidContent          not JSON, or JSON that would not round-trip
    │   ├── PayloadTooLarge         above the size limit of all buses
    │   └── TooManyHops             an event caused by too long a chain of events
    ├── BackendError                try again, or mend the server
    │   ├── BackendUnavailable      not reachable now
    │   ├── AccessDenied            wrong credentials or protocol: trying again does not help
    │   ├── PublishUncertain        sent, outcome unknown; repeating with the same id is safe
    │   ├── BusFull                 the size limit of the topic is reached
    │   ├── NotAttempted            an earlier event of the same key failed, so this one was not sent
    │   └── Closed                  used before open or after close
    ├── TaskError                   the outcome of a task, as the waiting side sees it
    │   ├── TaskFailed  TaskCanceled  TaskRejected  ResultTimeout
    │   ├── AmbiguousTask           several agents: say which
    │   └── TaskNotFound            nobody has met that task
    ├── DecodeError                 bytes that are no event
    ├── LeaseLost                   this attempt no longer owns its run
    ├── RetryAfter                  raised BY an agent: try again in that many seconds
    └── NonRetryable                raised BY an agent: do not try again
"""

from __future__ import annotations

from datetime import timedelta

__all__ = [
    "AccessDenied",
    "AmbiguousTask",
    "BackendConflict",
    "BackendError",
    "BackendImportError",
    "BackendIncompatible",
    "BackendNotInstalled",
    "BackendUnavailable",
    "BusFull",
    "Closed",
    "ConfigurationError",
    "DecodeError",
    "ForeignPackage",
    "InvalidContent",
    "InvalidEvent",
    "InvalidName",
    "LeaseLost",
    "NonRetryable",
    "NotAttempted",
    "OmniDaemonError",
    "PayloadTooLarge",
    "PublishUncertain",
    "ResultTimeout",
    "RetryAfter",
    "StoreTooNarrow",
    "TaskCanceled",
    "TaskError",
    "TaskFailed",
    "TaskNotFound",
    "TaskRejected",
    "TooManyHops",
    "UnknownBackend",
    "UnsupportedCapability",
]


class OmniDaemonError(Exception):
    """Root of everything OmniDaemon raises on purpose."""


class ConfigurationError(OmniDaemonError):
    """Code or configuration asks for something that cannot be; nothing was started or sent."""


class UnknownBackend(ConfigurationError):
    """No installed or known adapter has the name that was asked for."""


class BackendNotInstalled(ConfigurationError):
    """The name is one of ours, and its package is not installed; the message has the pip line."""


class BackendImportError(ConfigurationError):
    """The adapter's package is installed and importing it failed."""


class BackendConflict(ConfigurationError):
    """Two installed distributions register the same name."""


class BackendIncompatible(ConfigurationError):
    """The object is no bus or store, or was written for another version of the port."""


class UnsupportedCapability(ConfigurationError):
    """The chosen backend declares that it cannot do what was asked."""


class StoreTooNarrow(ConfigurationError):
    """The bus is reachable from more places than the store: claims would not be shared."""


class ForeignPackage(ConfigurationError):
    """A foreign distribution called ``omnidaemon`` is installed in this environment."""


class InvalidEvent(OmniDaemonError, ValueError):
    """The event was refused before anything was sent."""


class InvalidName(InvalidEvent):
    """A topic, agent name or namespace outside the common grammar of all backends."""


class InvalidContent(InvalidEvent):
    """Content, header or result that JSON cannot hold, or that would not come back unchanged."""


class PayloadTooLarge(InvalidEvent):
    """The encoded event is above ``max_event_bytes``."""


class TooManyHops(InvalidEvent):
    """The chain of events that caused this one is longer than ``max_hops``."""


class BackendError(OmniDaemonError):
    """A bus or store could not do its work."""


class BackendUnavailable(BackendError):
    """The server cannot be reached, or dropped the connection; nothing is known to be lost."""


class AccessDenied(BackendError):
    """The server refused the credentials or does not speak the expected protocol."""


class PublishUncertain(BackendError):
    """The event may or may not have been stored. Publishing it again with the same id is safe."""


class BusFull(BackendError):
    """The topic holds ``topic_max_bytes`` of events that some group has not finished."""


class NotAttempted(BackendError):
    """Not sent, because an earlier event of the same key in the same call failed."""


class Closed(BackendError):
    """The bus or store was used before ``open`` or after ``close``."""


class TaskError(OmniDaemonError):
    """Base of the outcomes that waiting for a task can raise."""


class TaskFailed(TaskError):
    """The agent gave up on the event.

    Attributes:
        type: Name of the exception class that the agent raised last.
        message: Its text.
        reason: The dead-letter reason, or None when ``dead_letter=False``.
        traceback: Text of the last traceback, possibly empty.
        attempts: Number of attempts that were made.
    """

    def __init__(
        self,
        text: str,
        *,
        error_type: str = "",
        message: str = "",
        reason: str | None = None,
        traceback: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(text)
        self.type = error_type
        self.message = message
        self.reason = reason
        self.traceback = traceback
        self.attempts = attempts


class TaskCanceled(TaskError):
    """The task was cancelled before it ended."""


class TaskRejected(TaskError):
    """The event expired, or was skipped, before an agent ran it."""


class ResultTimeout(TaskError, TimeoutError):
    """No outcome within the time given; the task goes on."""


class AmbiguousTask(TaskError, LookupError):
    """Several agents work on that event: name one with ``agent=``."""


class TaskNotFound(TaskError, LookupError):
    """No agent has a record of that task."""


class DecodeError(OmniDaemonError, ValueError):
    """Bytes on the bus that are not an event of this or an earlier schema version."""


class LeaseLost(OmniDaemonError):
    """This attempt no longer owns its run: somebody else took it over, or it was cancelled."""


class RetryAfter(OmniDaemonError):
    """Raised by an agent: try the event again in ``seconds``; it spends no attempt (rule D8)."""

    def __init__(self, seconds: float | timedelta, message: str = "") -> None:
        self.seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        if not 0 <= self.seconds < float("inf"):
            raise ValueError(f"RetryAfter(seconds) must be a finite number >= 0, got {seconds!r}")
        super().__init__(message or f"retry after {self.seconds:g} s")

    def __reduce__(self) -> tuple[type[RetryAfter], tuple[float, str]]:
        return type(self), (self.seconds, str(self))


class NonRetryable(OmniDaemonError):
    """Raised by an agent: trying again cannot help, dead-letter the event at once (rule D8)."""
