"""The grammar of names (rule T3) and the shape of a task id."""

from __future__ import annotations

import re

from omnidaemon.model.errors import InvalidName

__all__ = ["check_agent", "check_namespace", "check_topic", "split_task_id", "task_id"]

_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_AGENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")
_RESERVED = "omnidaemon."


def check_topic(topic: object, *, internal: bool = False) -> str:
    """Return ``topic`` if every backend can hold it.

    Raises:
        InvalidName: Outside ``[A-Za-z0-9][A-Za-z0-9._-]{0,99}``, or reserved.
    """
    if not isinstance(topic, str) or not _TOPIC.match(topic):
        raise InvalidName(
            f"invalid topic {topic!r}: use 1 to 100 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        )
    if topic.startswith(_RESERVED) and not internal:
        raise InvalidName(f"invalid topic {topic!r}: topics '{_RESERVED}*' are reserved, choose another name")
    return topic


def check_agent(name: object) -> str:
    """Return ``name`` if every backend can hold it as an agent's name.

    Raises:
        InvalidName: Not 1 to 64 of ``A-Z a-z 0-9 . _ -``, or starting with ``.`` or ``-``.
    """
    if not isinstance(name, str) or not _AGENT.match(name):
        raise InvalidName(
            f"invalid agent name {name!r}: use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter, digit or _"
        )
    return name


def check_namespace(namespace: object) -> str:
    """Return ``namespace`` if every backend can use it as its prefix.

    Raises:
        InvalidName: Not 1 to 32 of ``A-Z a-z 0-9 . _ -``.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.match(namespace):
        raise InvalidName(
            f"invalid namespace {namespace!r}: use 1 to 32 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        )
    return namespace


def task_id(event_id: str, agent: str) -> str:
    """Return the id of an event as one agent's work."""
    return f"{event_id}:{agent}"


def split_task_id(text: str) -> tuple[str, str | None]:
    """Split ``<event id>:<agent>``; the agent is None for a bare event id.

    Agent names hold no colon, event ids may.
    """
    event_id, colon, agent = text.rpartition(":")
    if colon and _AGENT.match(agent):
        return event_id, agent
    return text, None
