"""One worker process: loads the application, says what it runs on, works until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from types import FrameType

from omnidaemon import OmniDaemonError, OmniDaemonSDK
from omnidaemon.runtime.process import spare_the_collector
from omnidaemon_cli.loading import AppImportError, load_sdk
from omnidaemon_cli.logs import announce, announce_event, configure
from omnidaemon_cli.options import RunOptions

__all__ = ["run"]

# How long the interpreter may take to end after the drain; threads that cannot be stopped would keep it.
_EXIT_LIMIT = 5.0


def run(options: RunOptions, folder: str) -> int:
    """Work until SIGTERM or SIGINT and return the exit code; a second signal exits at once (L1).

    Args:
        options: What to run and how.
        folder: Where modules are looked for first.
    """
    stop = _Stop()
    configure(options.log_level, options.log_format)
    try:
        sdk = load_sdk(options.target, folder)
        if options.channel is not None:
            _watch_parent(options.channel)
        asyncio.run(_serve(sdk, options, stop))
    except AppImportError as error:
        announce(options.log_format, f"{error.traceback}error: {error}", level="error", error="AppImportError")
        return 1
    except OmniDaemonError as error:
        announce(options.log_format, f"error: {error}", level="error", error=type(error).__name__)
        return 1
    return 0


class _Stop:
    """The signals: the first one asks, the second one ends the process, even while an agent blocks the loop."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._asked.is_set():
            os._exit(128 + number)
        self._asked.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait for the first signal."""
        self._loop = asyncio.get_running_loop()
        if not self._asked.is_set():
            await self._event.wait()


async def _serve(sdk: OmniDaemonSDK, options: RunOptions, stop: _Stop) -> None:
    asked = asyncio.ensure_future(stop.wait())
    try:
        if not options.quiet:
            _say_what_was_chosen(sdk, options)
        started = asyncio.ensure_future(_start(sdk, options))
        await asyncio.wait({started, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            # Told to stop while a backend is not reachable yet: there is nothing to drain.
            started.cancel()
            await asyncio.wait({started})
            return
        await started
        spare_the_collector()
        announce_event(options.log_format, "worker ready", event="ready")
        if options.channel is not None:
            os.write(options.channel, b"r")
        await asked
        announce_event(options.log_format, "worker drains", event="draining")
    finally:
        asked.cancel()
        await sdk.shutdown()
        _limit_exit(int(sys.exc_info()[0] is not None))
    announce_event(options.log_format, "worker stopped", event="stopped")


async def _start(sdk: OmniDaemonSDK, options: RunOptions) -> None:
    if options.resume:
        for config in sdk.agents:
            known = await sdk.get_agent(config.topic, config.name)
            if known is not None and known["state"] == "paused":
                await sdk.resume_agent(config.topic, config.name)
                text = f"agent {config.name} on {config.topic} is resumed"
                announce_event(options.log_format, text, event="resumed", agent=config.name, topic=config.topic)
        # A connection that only this needed.
        await sdk.shutdown()
    await sdk.start()


def _say_what_was_chosen(sdk: OmniDaemonSDK, options: RunOptions) -> None:
    chosen = sdk.choose()
    agents = [f"{config.name} on {config.topic}" for config in sdk.agents]
    lines = [
        f"event bus   {chosen.why['event_bus']}: {chosen.bus.location}",
        f"store       {chosen.why['store']}: {chosen.store.location}",
        f"namespace   {chosen.settings.namespace}",
        f"agents      {', '.join(agents) or 'none are declared'}",
    ]
    announce(
        options.log_format,
        "\n".join(lines) if options.log_format == "text" else "chosen",
        event="chosen",
        why=chosen.why,
        event_bus=chosen.bus.location,
        store=chosen.store.location,
        namespace=chosen.settings.namespace,
        agents=agents,
    )


def _watch_parent(channel: int) -> None:
    """Drain when the parent is gone, however it ended: its end of the channel closes.

    A thread, because the loop may be blocked by an agent; and a limit, because that may last.
    """
    os.set_inheritable(channel, False)

    def watch() -> None:
        while True:
            try:
                if not os.read(channel, 1):
                    break
            except OSError:
                break
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="omnidaemon-parent", daemon=True).start()


def _limit_exit(code: int) -> None:
    timer = threading.Timer(_EXIT_LIMIT, os._exit, (code,))
    timer.daemon = True
    timer.start()
