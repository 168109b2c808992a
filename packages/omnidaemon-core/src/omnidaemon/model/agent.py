"""What users declare about an agent (``api.md`` §5)."""

# Without postponed annotations: pydantic would have to evaluate each of them again.
import random
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from omnidaemon.model.errors import ConfigurationError, InvalidName
from omnidaemon.model.names import check_agent, check_topic

__all__ = ["DEFAULT_VERSION", "AgentConfig", "RetryPolicy", "Seconds", "SubscriptionConfig"]


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]


class _Declaration(BaseModel):
    """Frozen, without unknown fields; what is wrong is one readable ``ConfigurationError``."""

    # Built when the first one is made: who only publishes declares no agents.
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            name = type(self).__name__
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "fields"
            value = repr(first["input"])[:80]
            raise ConfigurationError(f"{name}({where}={value}): {first['msg']}") from None


class RetryPolicy(_Declaration):
    """When a failed attempt is repeated (D6, D7). Durations are seconds or ``timedelta``.

    The wait after attempt n is ``min(max, initial * factor ** (n - 1))``; with ``jitter="full"`` a
    uniform part of that.
    """

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 4
    initial: Seconds = 1.0
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    max: Seconds = 300.0
    jitter: Literal["full", "none"] = "full"

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait after attempt ``attempt`` has failed."""
        try:
            ceiling = min(self.max, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = self.max
        return rng.uniform(0, ceiling) if self.jitter == "full" else ceiling


DEFAULT_VERSION = "1.0.0"
_OLD_NAMES = ("max_retries", "dlq_retry_limit", "consumer_count", "dlq_enabled", "reclaim_idle_ms")


class SubscriptionConfig(_Declaration):
    """How an agent takes its events.

    Attributes:
        max_concurrency: At most so many runs at a time in one process; 1 means one.
        retry: See :class:`RetryPolicy`.
        timeout: Seconds that one attempt may take, None for no limit (D10).
        lease: Seconds after which a dead worker's runs are taken over (D3).
        start_from: Where a new group begins: ``beginning``, ``now``, a datetime or a position. None
            means ``beginning``, and ``now`` for an agent that is registered again after a deletion.
        dead_letter: Whether a run that was given up on is kept as a dead letter.
        dead_letter_topic: Topic that gets a copy of each dead letter.
    """

    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 10
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    timeout: Annotated[Seconds, Field(gt=0)] | None = None
    lease: Annotated[Seconds, Field(gt=0)] = 15.0
    start_from: datetime | str | None = None
    dead_letter: bool = True
    dead_letter_topic: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "group_name" in data:
            raise ConfigurationError(
                "SubscriptionConfig(group_name=...) is gone: the group is named by AgentConfig(name=...)"
            )
        old = [name for name in _OLD_NAMES if name in data]
        if not old:
            return data
        data = dict(data)
        for name in old:
            value = data.pop(name)
            warnings.warn(_advice(name, value), DeprecationWarning, stacklevel=4)
            if name in ("max_retries", "dlq_retry_limit"):
                if not isinstance(value, int) or value < 0:
                    raise ValueError(f"{name} must be an integer >= 0, got {value!r}")
                data.setdefault("retry", RetryPolicy(max_attempts=value + 1))
            elif name == "consumer_count":
                if not isinstance(value, int) or value < 1:
                    raise ValueError(f"consumer_count must be an integer >= 1, got {value!r}")
                data.setdefault("max_concurrency", 10 * value)
            elif name == "dlq_enabled":
                data.setdefault("dead_letter", value)
        return data

    @field_validator("start_from", mode="before")
    @classmethod
    def _start(cls, value: Any) -> Any:
        if value is None or isinstance(value, datetime) or (isinstance(value, str) and value):
            return value
        raise ValueError("give 'beginning', 'now', a datetime or a position of the bus")

    @field_validator("dead_letter_topic")
    @classmethod
    def _topic(cls, value: str | None) -> str | None:
        return None if value is None else check_topic(value)


def _advice(name: str, value: Any) -> str:
    if name == "reclaim_idle_ms":
        return "reclaim_idle_ms is ignored: a lease is renewed while the agent runs, see SubscriptionConfig(lease=)"
    if name == "consumer_count":
        limit = 10 * value if isinstance(value, int) else "10 for each consumer"
        return f"consumer_count={value!r} is deprecated: use max_concurrency={limit}"
    if name == "dlq_enabled":
        return f"dlq_enabled={value!r} is deprecated: use dead_letter={value!r}"
    attempts = value + 1 if isinstance(value, int) else f"{name} + 1"
    return f"{name}={value!r} is deprecated: use retry=RetryPolicy(max_attempts={attempts})"


class AgentConfig(_Declaration):
    """An agent on a topic.

    Attributes:
        topic: The topic it subscribes to.
        callback: A plain callable, sync or async.
        agent: A framework's agent object, or a Runner; instead of ``callback``.
        name: Default: the callable's or object's own name. Its group is named after it.
        tools: Names of the tools it uses, for lists.
        description: For lists.
        version: For lists and records.
        tags: For lists.
        config: How it takes its events.
        isolation: ``inline`` runs on the event loop, ``thread`` in a thread; None: sync callables in
            a thread, everything else inline.
    """

    topic: str
    callback: Callable[..., Any] | None = None
    agent: Any = None
    name: str = ""
    tools: tuple[str, ...] = ()
    description: str = ""
    version: str = DEFAULT_VERSION
    tags: tuple[str, ...] = ()
    config: SubscriptionConfig = Field(default_factory=SubscriptionConfig)
    isolation: Literal["inline", "thread"] | None = None

    @field_validator("name", "tools", "description", "tags", mode="before")
    @classmethod
    def _empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Take None as not given: the documents of 0.1 show it as the default."""
        return cls.model_fields[str(info.field_name)].default if value is None else value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        try:
            check_topic(self.topic, internal=True)
            if (self.callback is None) == (self.agent is None):
                raise ConfigurationError(f"AgentConfig(topic={self.topic!r}): give either callback= or agent=")
            if not self.name:
                # An empty name is none: only a name of the user's replaces another agent.
                self.model_fields_set.discard("name")
                object.__setattr__(self, "name", _own_name(self.callback if self.agent is None else self.agent))
            check_agent(self.name)
        except InvalidName as error:
            raise ConfigurationError(str(error)) from None
        return self


def _own_name(target: Any) -> str:
    for attribute in ("name", "__name__"):
        name = getattr(target, attribute, None)
        if isinstance(name, str) and name and name != "<lambda>":
            return name
    inner = getattr(target, "func", None)
    if callable(inner) and not isinstance(inner, type(target)):
        return _own_name(inner)
    if callable(target) and not hasattr(target, "__name__") and inner is None:
        return type(target).__name__
    raise ConfigurationError(f"{target!r} has no name of its own: give AgentConfig(name=...), the same at each start")
