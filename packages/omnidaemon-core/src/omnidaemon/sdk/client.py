"""The SDK: what users call (``api.md``)."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from omnidaemon.model.agent import AgentConfig, SubscriptionConfig
from omnidaemon.model.durations import Duration, in_seconds
from omnidaemon.model.errors import ConfigurationError, InvalidName
from omnidaemon.model.names import check_topic
from omnidaemon.ports.event_bus import EventBus
from omnidaemon.ports.runner import Runner
from omnidaemon.ports.store import Store
from omnidaemon.sdk.commands import Commands
from omnidaemon.sdk.publishing import Publishing
from omnidaemon.sdk.views import Views

if TYPE_CHECKING:
    from omnidaemon.runtime.handover import Handover
    from omnidaemon.runtime.process import StopSignals
    from omnidaemon.runtime.worker import Worker

# What only a worker needs is imported where one is made: publishers start in two thirds of the time.
__all__ = ["OmniDaemonSDK"]

_logger = logging.getLogger("omnidaemon")
F = TypeVar("F", bound=Callable[..., Any])
_SUBSCRIPTION = frozenset(SubscriptionConfig.model_fields)


class OmniDaemonSDK(Publishing, Commands, Views):
    """Publishes events, runs agents, and looks at both.

    Args:
        event_bus: A name, a URL or an instance; None for ``EVENT_BUS_TYPE``.
        store: Likewise, for ``STORAGE_BACKEND``.
        **settings: Any field of ``Settings``; they win over ``OMNIDAEMON_*`` variables.

    Making one resolves nothing and connects to nothing. Publishing and queries connect at first use
    and never start a worker; ``async with sdk`` connects and closes; ``await sdk.start()`` starts one.
    """

    def __init__(
        self, event_bus: EventBus | str | None = None, store: Store | str | None = None, **settings: Any
    ) -> None:
        super().__init__(event_bus, store, settings)
        self._agents: dict[tuple[str, str], tuple[AgentConfig, Runner]] = {}
        self._worker: Worker | None = None
        self._handover: Handover | None = None
        # In the order in which they were opened; one that was replaced may still run something.
        self._open_runners: list[Runner] = []
        self._stopped = asyncio.Event()
        self._switching = asyncio.Lock()
        self._plugged = False

    def add_agent(self, config: AgentConfig) -> AgentConfig:
        """Declare an agent; no I/O.

        Raises:
            ConfigurationError: Another callable has that name on that topic already, or its
                parameters cannot be resolved.
        """
        key = (config.topic, config.name)
        known = self._agents.get(key)
        if known is not None and "name" not in config.model_fields_set:
            before = known[0].callback if known[0].callback is not None else known[0].agent
            now = config.callback if config.callback is not None else config.agent
            # Each access to a method makes another object.
            if before is not now and not (inspect.ismethod(before) and before == now):
                raise ConfigurationError(
                    f"two agents on {config.topic!r} are called {config.name!r}; give one of them name="
                )
        from omnidaemon.sdk.runners import runner_for

        self._agents[key] = (config, runner_for(config))
        return config

    def agent(self, topic: str, **options: Any) -> Callable[[F], F]:
        """Declare the decorated callable as an agent on ``topic`` and return it unchanged.

        Options are the fields of ``AgentConfig`` and ``SubscriptionConfig``.
        """
        subscription = {name: options.pop(name) for name in list(options) if name in _SUBSCRIPTION}
        if subscription:
            if "config" in options:
                raise ConfigurationError(f"give either config= or {', '.join(sorted(subscription))}")
            options["config"] = SubscriptionConfig(**subscription)

        def register(callback: F) -> F:
            self.add_agent(AgentConfig(topic=_declared(topic), callback=callback, **options))
            return callback

        return register

    async def register_agent(self, agent_config: AgentConfig) -> None:
        """Declare an agent and, if the worker runs, begin at once."""
        key = (agent_config.topic, agent_config.name)
        before = self._agents.get(key)
        config = self.add_agent(agent_config)
        if self._worker is None or self._handover is None:
            return
        try:
            await self._open(self._agents[key][1])
            await self._handover.call_io(self._worker.add(*self._agents[key]))
        except BaseException:
            # Not registered, so not declared either: the next start() must not fail for it.
            if self._agents.get(key, (None,))[0] is config:
                del self._agents[key]
                self._agents |= {} if before is None else {key: before}
            raise

    @property
    def agents(self) -> list[AgentConfig]:
        """The agents declared on this SDK."""
        return [config for config, _ in self._agents.values()]

    async def __aenter__(self) -> Self:
        await self.connections.get()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.shutdown()

    async def start(self) -> None:
        """Start the worker of this process and return; a second call does nothing.

        Raises:
            ConfigurationError: Backends or agents cannot be.
            BackendError: A backend cannot be reached within ``connect_timeout``, or refuses.
        """
        async with self._switching:
            if self._worker is not None and not await self._abandoned():
                return
            chosen = self.choose()
            self._load_plugins()
            handover = self._make_handover()
            timeout = chosen.settings.connect_timeout
            try:
                for _, runner in self._agents.values():
                    await self._open(runner)
                worker = await handover.call_io(self._make_worker(handover, 30.0 if timeout is None else timeout))
                await handover.call_io(worker.start(list(self._agents.values())))
            except BaseException:
                handover.stop()
                await self._close_runners(0.0)
                raise
            self._worker, self._handover = worker, handover
            self._stopped = asyncio.Event()
            _logger.info("worker %s serves %d agents", worker.name, len(self._agents), extra=chosen.why)

    async def _abandoned(self) -> bool:
        """Let go of a worker whose agents' loop was closed without a stop; return whether there was one."""
        worker, handover = self._worker, self._handover
        if worker is None or handover is None or not handover.app_loop.is_closed():
            return False
        _logger.warning("worker %s: the event loop of its agents was closed without shutdown()", worker.name)
        await handover.call_io(worker.stop(0.0))
        await asyncio.to_thread(handover.stop)
        self._open_runners.clear()
        self._worker = self._handover = None
        return True

    async def _open(self, runner: Runner) -> None:
        if not any(runner is known for known in self._open_runners):
            await runner.open()
            self._open_runners.append(runner)

    async def _close_runners(self, grace: float) -> None:
        while self._open_runners:
            try:
                await self._open_runners.pop().close(grace)
            except Exception:
                _logger.exception("a runner could not be closed")

    def _make_handover(self) -> Handover:
        from omnidaemon.runtime.handover import ThreadHandover

        return ThreadHandover(asyncio.get_running_loop())

    async def _make_worker(self, handover: Handover, connect_timeout: float) -> Worker:
        from omnidaemon.runtime.worker import Worker

        chosen = self.choose()
        # A shorter lease than the bus's own is kept by the bus as well (D3).
        lease = min((config.config.lease for config, _ in self._agents.values()), default=None)
        bus, store = chosen.bus.twin(lease=lease), chosen.store.twin()
        return Worker(bus, store, chosen.settings, handover, clock=self.clock, connect_timeout=connect_timeout)

    def _load_plugins(self) -> None:
        if self._plugged:
            return
        self._plugged = True
        for point in importlib.metadata.entry_points(group="omnidaemon.plugins"):
            point.load()(self)

    async def stop(self, grace: Duration | None = None) -> None:
        """Drain the worker and keep the connections; may be called twice, and start() again after it.

        Args:
            grace: How long running agents have; by default the setting ``grace``.
        """
        async with self._switching:
            worker, handover = self._worker, self._handover
            if worker is None or handover is None:
                return
            seconds = self.settings.grace if grace is None else in_seconds(grace)
            await handover.call_io(worker.stop(seconds))
            await self._close_runners(seconds)
            # Joining a thread blocks: keep the agents' loop free meanwhile.
            await asyncio.to_thread(handover.stop)
            self._worker = self._handover = None
            self._stopped.set()

    async def shutdown(self, grace: Duration | None = None) -> None:
        """Stop the worker and close the connections of this loop; may be called twice."""
        await self.stop(grace)
        await self.connections.close()

    async def wait_stopped(self) -> None:
        """Wait until the worker has stopped."""
        if self._worker is not None:
            await self._stopped.wait()

    @property
    def running(self) -> bool:
        """Whether this SDK's worker runs."""
        return self._worker is not None

    def stop_intake(self) -> None:
        """Read nothing more from now on; the first half of :meth:`stop`, for signal handlers and other threads."""
        worker, handover = self._worker, self._handover
        if worker is not None and handover is not None:
            handover.io_loop.call_soon_threadsafe(worker.stop_intake)

    def run(self) -> None:
        """Run the worker in this process until SIGTERM or SIGINT; a second signal exits at once (L1)."""
        from omnidaemon.runtime.process import StopSignals

        with StopSignals(self.stop_intake) as stop:
            asyncio.run(self._serve(stop))

    async def _serve(self, stop: StopSignals) -> None:
        from omnidaemon.runtime.process import spare_the_collector

        try:
            if not await stop.come_first(self.start()):
                spare_the_collector()
                await stop.wait()
        finally:
            await self.shutdown()


def _declared(topic: str) -> str:
    try:
        return check_topic(topic)
    except InvalidName as error:
        raise ConfigurationError(str(error)) from None
