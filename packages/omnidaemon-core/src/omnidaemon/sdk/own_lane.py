"""Refuses what could never end: a run that awaits a task of its own lane (R5)."""

from __future__ import annotations

from omnidaemon.model.envelope import decode
from omnidaemon.model.errors import DecodeError, TaskError
from omnidaemon.model.names import task_id
from omnidaemon.model.run import Record
from omnidaemon.ports.context import running_context

__all__ = ["check_awaited", "lane_of"]


def lane_of(record: Record) -> str | None:
    """Return the lane of a record's event."""
    try:
        return decode(record.body).lane if record.body else None
    except DecodeError:
        return None


def check_awaited(event_id: str, topic: str | None, agent: str | None, lane: str | None) -> None:
    """Check that the run that awaits this task, if it is one that does, is not what the task waits for.

    Args:
        event_id: Whose task is awaited.
        topic: Where it was published; None when that is not known.
        agent: Whose task; None for the only agent of the topic.
        lane: Its lane; None when it has none, or none that is known.

    Raises:
        TaskError: The task can end only after the run that awaits it.
    """
    context = running_context()
    if context is None:
        return
    event = context.event
    planned = getattr(context, "planned", None)
    name = event_id if agent is None else task_id(event_id, agent)
    if planned is not None and planned(event_id):
        raise TaskError(f"task {name} cannot be awaited here: its event is sent when this run has ended")
    if agent not in (None, context.agent) or topic not in (None, event.topic):
        return
    if event_id == event.id and (agent is not None or topic is None):
        raise TaskError(f"task {name} cannot be awaited here: it is the run that awaits it")
    if lane is not None and lane == event.lane and topic is not None:
        field = "session_id" if lane.startswith("s:") else "key"
        raise TaskError(
            f"task {name} cannot be awaited here: it has the same {field}={lane[2:]!r} as this run, so that it can only"
            f" start when this run has ended; publish it with another {field}, or let it follow by ctx.publish"
        )
