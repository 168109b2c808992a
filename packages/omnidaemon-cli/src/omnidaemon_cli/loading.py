"""Finds the SDK that ``MODULE:SDK`` names."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from omnidaemon import ConfigurationError, OmniDaemonSDK

__all__ = ["AppImportError", "load_sdk"]


class AppImportError(Exception):
    """The application's own code failed while it was imported.

    Attributes:
        traceback: Text of what went wrong there, without the frames that led to it.
    """

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        frames = error.__traceback__
        while frames is not None and _not_theirs(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        self.traceback = "".join(traceback.format_exception(type(error), error, frames))


def _not_theirs(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")


def load_sdk(target: str, folder: str) -> OmniDaemonSDK:
    """Return the SDK of ``MODULE:SDK``, or the only one in a bare ``MODULE``.

    Args:
        target: As the user wrote it.
        folder: Where modules are looked for first, for the messages.

    Raises:
        ConfigurationError: No such module, or no such SDK in it.
        AppImportError: The module raised an exception.
    """
    name, colon, path = target.partition(":")
    if not name or (colon and not path) or name.endswith(".py") or "/" in name:
        raise ConfigurationError(f"{target!r} is not MODULE:SDK; for an `sdk = OmniDaemonSDK()` in app.py say app:sdk")
    module = _import(name, folder)
    if not path:
        return _only_sdk(module, name)
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigurationError(f"the module {name!r} has no {path!r}; {_listed(module, name)}")
    if not isinstance(found, OmniDaemonSDK):
        raise ConfigurationError(f"{target} is a {type(found).__name__} and no OmniDaemonSDK; {_listed(module, name)}")
    return found


def _import(name: str, folder: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only when the module itself is missing, and not something that it imports.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {name!r} in {folder} or on the Python path; name its folder with --app-dir"
            ) from None
        raise AppImportError(f"importing {name!r} failed", error) from error
    except Exception as error:
        raise AppImportError(f"importing {name!r} failed", error) from error


def _only_sdk(module: Any, name: str) -> OmniDaemonSDK:
    found = _sdks(module)
    if len({id(sdk) for sdk in found.values()}) != 1:
        raise ConfigurationError(f"say which SDK of {name!r} is meant: {_listed(module, name)}")
    return next(iter(found.values()))


def _sdks(module: Any) -> dict[str, OmniDaemonSDK]:
    return {name: value for name, value in vars(module).items() if isinstance(value, OmniDaemonSDK)}


def _listed(module: Any, name: str) -> str:
    found = ", ".join(f"{name}:{attribute}" for attribute in sorted(_sdks(module)))
    return f"it has {found}" if found else "it has none; write `sdk = OmniDaemonSDK()` at its top level"
