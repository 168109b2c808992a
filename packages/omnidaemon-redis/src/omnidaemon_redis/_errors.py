"""The driver's errors in our words; the only place that knows their names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from redis import exceptions as driver

from omnidaemon.model.errors import AccessDenied, BackendError, BackendUnavailable, ConfigurationError

__all__ = ["REPLY_LOST", "ReplyError", "is_definite", "mapped", "translate"]

ReplyError = driver.ResponseError

# The command was sent, and what became of it is unknown.
REPLY_LOST = (driver.ConnectionError, driver.TimeoutError, OSError, EOFError)

_DENIED = (driver.AuthenticationError, driver.AuthorizationError, driver.NoPermissionError)
_DENIED_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username-password", "invalid password")
# The server answered, and asks for patience: (first words of its reply, what to do).
_LATER = {
    "LOADING": "it loads its data; wait",
    "BUSY": "a script runs there; wait, or SCRIPT KILL",
    "READONLY": "it is a replica now: use a redis+sentinel:// URL, or point REDIS_URL at the master",
    "MASTERDOWN": "its link to the master is down; wait for the failover",
    "CLUSTERDOWN": "the cluster has no owner for some keys; wait, or mend the cluster",
    "TRYAGAIN": "keys are being moved between nodes; wait",
    "MOVED": "it is part of a cluster: use a redis+cluster:// URL",
    "CROSSSLOT": "it is part of a cluster: use a redis+cluster:// URL",
    "OOM": "it is out of memory: raise its maxmemory, or lower OMNIDAEMON_RETENTION",
    "MISCONF": "it cannot write to its disk: mend that, see its log",
    "NOREPLICAS": "not enough replicas are in sync",
    "UNBLOCKED": "the key went while it was read; try again",
    "NOGOODSLAVE": "no replica can be promoted",
}


def translate(error: BaseException, where: str) -> BackendError | ConfigurationError:
    """Return the error of ours that says the same as the driver's."""
    text = str(error) or type(error).__name__
    if isinstance(error, _DENIED) or any(word in text for word in _DENIED_WORDS):
        return AccessDenied(f"Redis at {where} refuses the credentials: {text}; check user and password in REDIS_URL")
    if isinstance(error, driver.InvalidResponse):
        return AccessDenied(f"what answers at {where} does not speak the Redis protocol: {text[:100]}; check REDIS_URL")
    if isinstance(error, driver.ResponseError):
        for word, advice in _LATER.items():
            if text.startswith(word) or type(error).__name__.upper().startswith(word):
                return BackendUnavailable(f"Redis at {where} cannot do it now ({text}): {advice}")
        return BackendError(f"Redis at {where} answered: {text}")
    return BackendUnavailable(f"Redis at {where} is not reachable: {text}; start it, or check REDIS_URL")


def is_definite(error: BaseException) -> bool:
    """Return whether the server itself answered, so that nothing was done."""
    return isinstance(error, driver.ResponseError)


@contextlib.contextmanager
def mapped(where: str) -> Iterator[None]:
    """Raise ours instead of the driver's and the operating system's errors."""
    try:
        yield
    except (driver.RedisError, OSError, EOFError, TimeoutError) as error:
        raise translate(error, where) from error
