"""All settings with their defaults, as one model (``api.md`` §6). Reads nothing by itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omnidaemon.model.agent import Seconds
from omnidaemon.model.errors import ConfigurationError

__all__ = ["Settings", "settings_from"]

PREFIX = "OMNIDAEMON_"


class Settings(BaseModel):
    """What can be configured besides the choice of backends. Durations are seconds.

    Each field is also the variable ``OMNIDAEMON_<FIELD>``; the constructor wins over the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    namespace: str = Field("omni", description="Prefix of everything on every backend.")
    result_ttl: Seconds = Field(86_400.0, description="How long a finished task's record is kept.")
    retention: Seconds = Field(7 * 86_400.0, description="How long finished events stay on their topic.")
    dedup_window: Seconds = Field(86_400.0, description="How long after its end an event's id is remembered.")
    adopt_after: Seconds = Field(10.0, description="Age at which the store takes a running event over from the bus.")
    max_event_bytes: Annotated[int, Field(ge=1024)] = Field(512 * 1024, description="Largest encoded event or result.")
    max_hops: Annotated[int, Field(ge=0)] = Field(32, description="Longest chain of events that cause each other.")
    topic_max_bytes: Annotated[int, Field(ge=1024)] | None = Field(None, description="Publish raises BusFull above it.")
    grace: Seconds = Field(30.0, description="How long stopping waits for running agents.")
    connect_timeout: Seconds | None = Field(None, description="For the first connection; 30 for workers, else 5.")
    publish_timeout: Seconds = Field(30.0, description="After which a publish of unknown outcome raises.")
    orphan_after: Seconds = Field(7 * 86_400.0, description="After which a group without a worker is reported.")
    max_dead_letters: Annotated[int, Field(ge=0)] = Field(10_000, description="Health is degraded from so many on.")
    metrics_ttl: Seconds = Field(25 * 3600.0, description="How long counts by the minute are kept.")
    allow_local_store: bool = Field(default=False, description="Accept a store that reaches less far than the bus.")


def settings_from(environ: Mapping[str, str], given: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Return settings from constructor arguments and ``OMNIDAEMON_*`` variables, and warnings.

    Raises:
        ConfigurationError: A value of the wrong type or out of range; names the variable.
    """
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(PREFIX + "TEST_"):
            continue
        if variable in known:
            # Set to nothing counts as not set, as compose files have it.
            if text.strip():
                values[known[variable]] = text.strip()
        else:
            close = difflib.get_close_matches(variable[len(PREFIX) :].lower(), Settings.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{close[0].upper()}?" if close else ""
            warnings.append(f"unknown variable {variable} is ignored{hint}")
    sources = {name: PREFIX + name.upper() for name in values}
    for name, value in given.items():
        values[name] = value
        sources[name] = f"{name}="
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {close[0]}=?" if close else f"; known: {', '.join(Settings.model_fields)}"
            raise ConfigurationError(f"there is no setting {name!r}{hint}") from None
        source, value = sources.get(name, name), repr(first["input"])[:80]
        raise ConfigurationError(f"{source} has the value {value}: {first['msg']}") from None
    return settings, warnings
