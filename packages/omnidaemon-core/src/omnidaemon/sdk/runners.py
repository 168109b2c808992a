"""Finds what runs an agent object: itself, a plain callable, or an installed runner package."""

from __future__ import annotations

import importlib.metadata
import inspect

from omnidaemon.model.agent import AgentConfig
from omnidaemon.model.errors import BackendImportError, ConfigurationError
from omnidaemon.ports.runner import Runner
from omnidaemon.runtime.callback import CallbackRunner

__all__ = ["RUNNERS", "runner_for"]

RUNNERS = "omnidaemon.runners"
_KNOWN = {
    "pydantic_ai": "omnidaemon-pydantic-ai",
    "langgraph": "omnidaemon-langgraph",
    "google.adk": "omnidaemon-adk",
    "crewai": "omnidaemon-crewai",
}


def runner_for(config: AgentConfig) -> Runner:
    """Return the runner of an agent.

    Raises:
        ConfigurationError: No runner, or more than one, matches the class of ``agent=``.
        BackendImportError: The runner's package does not import.
    """
    if config.callback is not None:
        return CallbackRunner(config.callback, config.isolation)
    agent = config.agent
    if hasattr(agent, "port_version") and callable(getattr(agent, "run", None)):
        runner: Runner = agent
        return runner
    if inspect.isroutine(agent):
        return CallbackRunner(agent, config.isolation)
    modules = [cls.__module__ for cls in type(agent).__mro__ if cls is not object]
    points = [
        point
        for point in importlib.metadata.entry_points(group=RUNNERS)
        if any(module == point.name or module.startswith(f"{point.name}.") for module in modules)
    ]
    if len(points) != 1:
        raise ConfigurationError(_no_match(config, modules, points))
    try:
        made: Runner = points[0].load()(agent)
    except ImportError as error:
        raise BackendImportError(f"the runner for {points[0].name} cannot be imported: {error}") from error
    return made


def _no_match(config: AgentConfig, modules: list[str], points: list[importlib.metadata.EntryPoint]) -> str:
    what = f"agent {config.name!r} is a {modules[0]}.{type(config.agent).__qualname__}"
    if points:
        return (
            f"{what}, which several runners claim: {', '.join(point.value for point in points)}; uninstall all but one"
        )
    for prefix, package in _KNOWN.items():
        if any(module == prefix or module.startswith(f"{prefix}.") for module in modules):
            return f"{what}, whose runner is not installed; run: pip install {package}"
    there = ", ".join(sorted(point.name for point in importlib.metadata.entry_points(group=RUNNERS))) or "none"
    return f"{what}, and no installed runner takes it (installed: {there}); pass callback= with a plain function"
