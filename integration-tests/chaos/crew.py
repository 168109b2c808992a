"""Worker processes, a stubborn publisher, and the count of what went in and what came out."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from omnidaemon import BackendError, EventEnvelope, OmniDaemonSDK, PayloadBase

LEASE = 2.0
HERE = Path(__file__).parent


class Crew:
    """Processes of :mod:`chaos.agents` on one backend; all of them end with the block."""

    def __init__(self, backend: str, namespace: str, folder: Path) -> None:
        self.backend, self.namespace = backend, namespace
        self._runs, self._logs = folder / "runs", folder / "logs"
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def sdk(self) -> OmniDaemonSDK:
        return OmniDaemonSDK(self.backend, self.backend, namespace=self.namespace)

    def start(self, number: int = 1) -> list[subprocess.Popen[bytes]]:
        environment = {
            **os.environ,
            "CHAOS_BACKEND": self.backend,
            "CHAOS_RUNS": str(self._runs),
            "CHAOS_LEASE": str(LEASE),
            "OMNIDAEMON_NAMESPACE": self.namespace,
            "OMNIDAEMON_GRACE": "10",
        }
        with self._logs.open("ab") as logs:
            started = [
                subprocess.Popen([sys.executable, "-m", "chaos.agents"], cwd=HERE.parent, env=environment, stderr=logs)
                for _ in range(number)
            ]
        self.processes.extend(started)
        return started

    def logs(self) -> str:
        return self._logs.read_text(errors="replace") if self._logs.exists() else ""

    def runs(self, what: str) -> collections.Counter[str]:
        """Return how often each event has left that line."""
        if not self._runs.exists():
            return collections.Counter()
        lines = [line.split() for line in self._runs.read_text().splitlines()]
        return collections.Counter(line[1] for line in lines if line[0] == what)

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {seconds} s; workers said:\n{self.logs()[-3000:]}")
            await asyncio.sleep(0.02)

    async def publish(self, sdk: OmniDaemonSDK, first: int, number: int) -> list[str]:
        """Publish until each event is confirmed, under one id each, whatever breaks meanwhile."""
        ids = []
        for index in range(first, first + number):
            event = EventEnvelope(topic="chaos", payload=PayloadBase(content={"number": index}))
            deadline = time.monotonic() + 60
            while True:
                try:
                    await sdk.publish(event)
                    break
                except BackendError:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.1)
            ids.append(event.id)
        return ids

    async def settled(self, sdk: OmniDaemonSDK, ids: list[str], seconds: float = 60.0) -> None:
        """Wait for all outcomes and count: one completed record and one count for each event, all follow-ups."""
        deadline = time.monotonic() + seconds
        wanted = len(ids)
        followed = {str(index) for index in range(wanted) if index % 10 == 5}
        while True:
            try:
                metrics = (await sdk.metrics()).get("chaos", {}).get("work", {})
                done = metrics.get("tasks_processed", 0)
                if done >= wanted and self.runs("next").keys() >= followed:
                    break
            except BackendError:
                done = -1
            if time.monotonic() > deadline:
                missing = [event_id for event_id in ids if not self.runs("end")[event_id]]
                raise AssertionError(
                    f"{done} of {wanted} after {seconds} s; never ended: {missing[:5]};"
                    f" workers said:\n{self.logs()[-3000:]}"
                )
            await asyncio.sleep(0.1)
        metrics = (await sdk.metrics())["chaos"]["work"]
        assert metrics["tasks_processed"] == wanted, "an outcome was counted twice"
        assert metrics["tasks_received"] == wanted
        assert metrics["tasks_failed"] == 0
        states: dict[str, str] = {}
        cursor = None
        while True:
            page = await sdk.list_tasks(agent="work", cursor=cursor, limit=200)
            states |= {task["task_id"]: task["state"] for task in page["tasks"]}
            cursor = page["cursor"]
            if cursor is None:
                break
        assert states == dict.fromkeys(ids, "completed")
        assert set(self.runs("next")) == followed
        assert (await sdk.metrics())["chaos.next"]["count"]["tasks_processed"] == len(followed)
