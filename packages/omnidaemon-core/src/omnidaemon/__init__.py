"""OmniDaemon: runs AI agents as durable, event-driven workers.

Importing does no I/O, reads no environment, starts nothing and loads no driver; names are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnidaemon.model.agent import AgentConfig, RetryPolicy, SubscriptionConfig
    from omnidaemon.model.envelope import EventEnvelope, PayloadBase
    from omnidaemon.model.errors import (
        AccessDenied,
        AmbiguousTask,
        BackendConflict,
        BackendError,
        BackendImportError,
        BackendIncompatible,
        BackendNotInstalled,
        BackendUnavailable,
        BusFull,
        Closed,
        ConfigurationError,
        DecodeError,
        ForeignPackage,
        InvalidContent,
        InvalidEvent,
        InvalidName,
        LeaseLost,
        NonRetryable,
        NotAttempted,
        OmniDaemonError,
        PayloadTooLarge,
        PublishUncertain,
        ResultTimeout,
        RetryAfter,
        StoreTooNarrow,
        TaskCanceled,
        TaskError,
        TaskFailed,
        TaskNotFound,
        TaskRejected,
        TooManyHops,
        UnknownBackend,
        UnsupportedCapability,
    )
    from omnidaemon.model.run import TaskState
    from omnidaemon.ports.context import Context, current_context
    from omnidaemon.sdk.client import OmniDaemonSDK
    from omnidaemon.sdk.commands import Replayed
    from omnidaemon.sdk.deletion import Deletion
    from omnidaemon.sdk.handles import EventHandle, TaskHandle, TaskOutcome

__version__ = "0.2.0"

# Quiet unless the application configures logging.
logging.getLogger("omnidaemon").addHandler(logging.NullHandler())

_ERRORS = [
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
_HOMES = {
    **dict.fromkeys(_ERRORS, "omnidaemon.model.errors"),
    **dict.fromkeys(("AgentConfig", "RetryPolicy", "SubscriptionConfig"), "omnidaemon.model.agent"),
    **dict.fromkeys(("EventEnvelope", "PayloadBase"), "omnidaemon.model.envelope"),
    **dict.fromkeys(("Context", "current_context"), "omnidaemon.ports.context"),
    **dict.fromkeys(("EventHandle", "TaskHandle", "TaskOutcome"), "omnidaemon.sdk.handles"),
    "TaskState": "omnidaemon.model.run",
    "OmniDaemonSDK": "omnidaemon.sdk.client",
    "Deletion": "omnidaemon.sdk.deletion",
    "Replayed": "omnidaemon.sdk.commands",
}
# Names of the first implementation that wait for a later round (api.md §9).
_LATER = {
    "start_api_server": "the HTTP API is not part of this version; use the `omnidaemon` command or the SDK",
    "create_supervisor_from_directory": "supervisors are gone; `omnidaemon run` restarts dead worker processes",
}

__all__ = [
    "AccessDenied",
    "AgentConfig",
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
    "Context",
    "DecodeError",
    "Deletion",
    "EventEnvelope",
    "EventHandle",
    "ForeignPackage",
    "InvalidContent",
    "InvalidEvent",
    "InvalidName",
    "LeaseLost",
    "NonRetryable",
    "NotAttempted",
    "OmniDaemonError",
    "OmniDaemonSDK",
    "PayloadBase",
    "PayloadTooLarge",
    "PublishUncertain",
    "Replayed",
    "ResultTimeout",
    "RetryAfter",
    "RetryPolicy",
    "StoreTooNarrow",
    "SubscriptionConfig",
    "TaskCanceled",
    "TaskError",
    "TaskFailed",
    "TaskHandle",
    "TaskNotFound",
    "TaskOutcome",
    "TaskRejected",
    "TaskState",
    "TooManyHops",
    "UnknownBackend",
    "UnsupportedCapability",
    "current_context",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value
    if name in _LATER:
        raise ImportError(f"cannot import {name!r} from 'omnidaemon': {_LATER[name]}")
    raise AttributeError(f"module 'omnidaemon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
