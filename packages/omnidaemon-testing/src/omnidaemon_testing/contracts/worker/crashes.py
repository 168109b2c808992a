"""Rules D1, D3, D5, D11 and L1 with workers in processes of their own, killed and frozen."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from omnidaemon import EventHandle, OmniDaemonSDK
from omnidaemon_testing.contracts.worker.base import WorkerBase
from omnidaemon_testing.contracts.worker.process import Order

__all__ = ["CrashRules"]


class Processes:
    """Worker processes of one test, and the journal of what their agents did."""

    def __init__(self, folder: str) -> None:
        self.journal = Path(folder) / "journal"
        self._log = Path(folder) / "log"
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, order: bytes) -> subprocess.Popen[bytes]:
        """Start a worker."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "omnidaemon_testing.contracts.worker.process"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)  # noqa: S603 - our own
        self._all.append(process)
        assert process.stdin is not None
        process.stdin.write(order)
        process.stdin.close()
        return process

    def lines(self, what: str) -> list[tuple[str, int, int, float]]:
        """Return event id, attempt, process and time of all starts or ends."""
        if not self.journal.exists():
            return []
        split = [line.split() for line in self.journal.read_text().splitlines()]
        return [(name, int(attempt), int(pid), float(at)) for kind, name, attempt, pid, at in split if kind == what]

    def log(self) -> str:
        """Return what the processes have printed."""
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    def end(self) -> None:
        """Kill and reap all of them."""
        for process in self._all:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


class CrashRules(WorkerBase):
    """What the death of a process costs."""

    _processes: Processes

    def crew(self, **options: Any) -> tuple[OmniDaemonSDK, bytes]:
        """Return an SDK to publish with, and the order for worker processes; skip where there are none."""
        self.needs_real_time()
        sdk = self.sdk()
        chosen = sdk.choose()
        for adapter in (chosen.bus, chosen.store):
            if adapter.scope == "process":
                self.absent(adapter, "scope beyond one process")
        folder = tempfile.TemporaryDirectory(prefix="omnidaemon-contract-")
        self._closing.callback(folder.cleanup)
        self._processes = Processes(folder.name)
        self._closing.callback(self._processes.end)
        bus, store = self._make_bus(), self._make_store()
        order = Order(bus, store, self.topic, str(self._processes.journal), self.timing.lease, **options)
        try:
            return sdk, pickle.dumps(order)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self.not_tried(f"an unopened adapter cannot be pickled for another process: {error}")

    async def fill(self, sdk: OmniDaemonSDK, count: int, **content: Any) -> list[EventHandle]:
        """Publish events for the worker processes."""
        items = [(self.topic, {"number": number, **content}) for number in range(count)]
        outcomes = await sdk.publish_many(items)
        handles = [one for one in outcomes if isinstance(one, EventHandle)]
        assert len(handles) == count
        return handles

    async def until_started(self, count: int) -> list[tuple[str, int, int, float]]:
        """Wait until the processes have begun that many runs."""

        async def begun() -> bool:
            return len(self._processes.lines("start")) >= count

        try:
            await self.until(begun, f"{count} runs have begun", within=self.timing.deadline + 20)
        except AssertionError as error:
            raise AssertionError(f"{error}; the processes said: {self._processes.log()}") from None
        return self._processes.lines("start")

    async def settled_once(self, sdk: OmniDaemonSDK, handles: list[EventHandle]) -> None:
        """Assert that every event has one good outcome, and that the counters agree."""
        await self.all_done(sdk, handles, within=self.takeover() * 2)
        tasks = await self.tasks(sdk, [handle.id for handle in handles])
        assert Counter(task["state"] for task in tasks) == {"completed": len(handles)}
        assert [task["result"] for task in tasks] == list(range(len(handles)))
        counts = (await sdk.metrics(self.topic))[self.topic]["agent"]
        assert counts["tasks_processed"] == len(handles)

    async def test_d1_kill_9_loses_nothing(self) -> None:
        """Worker processes killed in mid-flow: every event has one outcome, the counters agree.

        Trouble-shooting: find the await at which the lost event was neither in the store nor on the bus.
        """
        sdk, order = self.crew()
        handles = await self.fill(sdk, 80, wait=0.02)
        workers = [self._processes.start(order), self._processes.start(order)]
        for number, worker in enumerate(workers):
            await self.until_started(15 * (number + 1))
            worker.kill()
            self._processes.start(order)
        await self.settled_once(sdk, handles)
        started = len(self._processes.lines("start"))
        assert started <= 80 + 2 * 8, f"{started} starts for 80 events and two kills"

    async def test_d3_a_killed_worker_s_event_runs_elsewhere_in_time(self) -> None:
        """Within lease + 5 s of a kill another process runs what the dead one had begun.

        Trouble-shooting: redelivery by the bus, takeover of the claim, the inbox; which one was slow?
        """
        sdk, order = self.crew(max_concurrency=1)
        handles = await self.fill(sdk, 1, wait=self.timing.lease * 3)
        first = self._processes.start(order)
        await self.until_started(1)
        second = self._processes.start(order)
        await self.sleep(self.timing.lease)
        first.kill()
        killed = time.time()
        starts = await self.until_started(2)
        assert starts[1][2] == second.pid
        took = starts[1][3] - killed
        assert took <= self.takeover() + self.timing.slack, f"the takeover took {took:.1f} s"
        await self.settled_once(sdk, handles)

    async def test_d5_a_frozen_worker_settles_nothing(self) -> None:
        """A process stopped for longer than its lease finds, when it goes on, that others did its work.

        Trouble-shooting: its outcomes are refused by the token; its reads are stale and given back.
        """
        sdk, order = self.crew()
        handles = await self.fill(sdk, 40, wait=0.05)
        first = self._processes.start(order)
        await self.until_started(6)
        first.send_signal(signal.SIGSTOP)
        self._processes.start(order)
        await self.sleep(self.timing.lease * 2)
        first.send_signal(signal.SIGCONT)
        await self.settled_once(sdk, handles)

    async def test_d11_an_agent_that_kills_its_process_spares_the_others(self) -> None:
        """An event that takes its process down is counted and ends as ``crash_loop``; others are run.

        Trouble-shooting: its second lost start makes it a suspect, which runs alone.
        """
        sdk, order = self.crew()
        (deadly,) = await self.fill(sdk, 1, die=True)
        handles = await self.fill(sdk, 10, wait=0.01)
        worker = self._processes.start(order)

        async def ended() -> bool:
            nonlocal worker
            if worker.poll() is not None:
                worker = self._processes.start(order)
            return await self.state(sdk, deadly) == "failed"

        await self.until(ended, "the deadly event is given up on", within=8 * self.takeover())
        assert (await self.tasks(sdk, [deadly.id]))[0]["reason"] == "crash_loop"
        assert sum(name == deadly.id for name, *_ in self._processes.lines("start")) == 6, "max_attempts + 3"
        await self.all_done(sdk, handles, within=self.takeover())
        assert {task["state"] for task in await self.tasks(sdk, [handle.id for handle in handles])} == {"completed"}

    async def test_l1_sigterm_drains(self) -> None:
        """SIGTERM: running work is finished and settled, nothing is repeated, the exit code is 0.

        Trouble-shooting: ``sdk.run`` installs the handlers; the grace period is the SDK's.
        """
        sdk, order = self.crew()
        handles = await self.fill(sdk, 30, wait=0.05)
        first = self._processes.start(order)
        await self.until_started(6)
        first.terminate()
        code = await asyncio.to_thread(first.wait, self.timing.deadline + 20)
        assert code == 0, f"exit code {code}: {self._processes.log()}"
        self._processes.start(order)
        await self.settled_once(sdk, handles)
        repeated = [
            name for name, times in Counter(name for name, *_ in self._processes.lines("start")).items() if times > 1
        ]
        assert not repeated, f"a drained worker's runs began again: {repeated}"

    async def test_l1_a_second_signal_exits_now(self) -> None:
        """A second signal ends the process at once, without waiting for its runs.

        Trouble-shooting: what it held is taken over as after a kill.
        """
        sdk, order = self.crew()
        handles = await self.fill(sdk, 1, wait=30)
        worker = self._processes.start(order)
        await self.until_started(1)
        worker.terminate()
        await self.sleep(self.timing.quiet)
        assert worker.poll() is None, "the first signal waits for the run"
        worker.terminate()
        code = await asyncio.to_thread(worker.wait, self.timing.deadline)
        assert code == 128 + signal.SIGTERM
        assert await sdk.cancel(f"{handles[0].id}:agent")
