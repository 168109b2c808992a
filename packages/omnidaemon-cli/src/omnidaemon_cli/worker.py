"""One worker process: loads the application, says what it runs on, works until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

from omnidaemon import OmniDaemonError, OmniDaemonSDK
from omnidaemon.runtime.process import StopSignals, spare_the_collector
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
    configure(options.log_level, options.log_format)
    try:
        sdk = load_sdk(options.target, folder)
        if options.channel is not None:
            _watch_parent(options.channel)
        with StopSignals(sdk.stop_intake) as stop:
            asyncio.run(_serve(sdk, options, stop))
    except AppImportError as error:
        announce(options.log_format, f"{error.traceback}error: {error}", level="error", error="AppImportError")
        return 1
    except OmniDaemonError as error:
        announce(options.log_format, f"error: {error}", level="error", error=type(error).__name__)
        return 1
    return 0


async def _serve(sdk: OmniDaemonSDK, options: RunOptions, stop: StopSignals) -> None:
    try:
        if not options.quiet:
            _say_what_was_chosen(sdk, options)
        if await stop.come_first(_start(sdk, options)):
            return
        spare_the_collector()
        announce_event(options.log_format, "worker ready", event="ready")
        if options.channel is not None:
            os.write(options.channel, b"r")
        await stop.wait()
        announce_event(options.log_format, "worker drains", event="draining")
    finally:
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
