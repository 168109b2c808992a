"""The demo, scene by scene."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from omnidaemon import OmniDaemonError, OmniDaemonSDK
from omnidaemon_cli.demo.agents import LEASE, Report
from omnidaemon_cli.demo.look import DemoError, Look
from omnidaemon_cli.demo.stage import Stage
from omnidaemon_cli.output import console, emit, line, table

__all__ = ["play"]

LONG, BUSY, MISSING = "annual.txt", "minutes.txt", "invoice.txt"
REPORTS = [
    Report(name=LONG, seconds=4.0),
    Report(name=BUSY, seconds=0.4, busy=True),
    Report(name=MISSING, seconds=0.4),
    *(Report(name=f"week-{week:02d}.txt", seconds=0.6) for week in range(1, 10)),
]
WORKERS = 2
HALF = 50
_TEXT = "Agents fail, processes die, and the work gets done all the same. "


def play(*, as_json: bool) -> int:
    """Play it and return the exit code: 1 if anything was not as it must be."""
    story: dict[str, Any] = {"ok": False, "scenes": [], "counts": {}, "problems": []}
    began = time.monotonic()
    with Stage() as stage:
        sdk = OmniDaemonSDK()
        # Say that SQLite is not installed, if so, before anything is started.
        sdk.choose()
        try:
            asyncio.run(_Play(stage, sdk, story, silent=as_json).run())
        except (DemoError, OmniDaemonError) as error:
            story["problems"].append(str(error))
        if story["problems"]:
            story["log"] = stage.log()
    story["ok"], story["seconds"] = not story["problems"], round(time.monotonic() - began, 1)
    emit(story, as_json, lambda: _end(story))
    return 0 if story["ok"] else 1


def _end(story: dict[str, Any]) -> None:
    line()
    if story["ok"]:
        line(f"Nothing was lost and no result was counted twice, in {story['seconds']} s.", style="bold green")
        line("Next: write your own agent; the README shows one in thirty lines.")
        return
    for problem in story["problems"]:
        print(f"error: {problem}", file=sys.stderr)
    print(story["log"], file=sys.stderr)


class _Play:
    """One performance."""

    def __init__(self, stage: Stage, sdk: OmniDaemonSDK, story: dict[str, Any], *, silent: bool) -> None:
        self._stage, self._sdk, self._story, self._silent = stage, sdk, story, silent
        self._look = Look(sdk)

    def _say(self, label: str, text: str, **fields: Any) -> None:
        self._story["scenes"].append({"scene": label, "text": text, **fields})
        if not self._silent:
            console().print(f"  {label:<12}", end="", style="bold")
            line(text)

    async def run(self) -> None:
        """Play all scenes."""
        if not self._silent:
            line("OmniDaemon: two agents, two worker processes, one SQLite file in a temporary folder.")
            line("Every line below is read back from the event bus or the store.\n", style="dim")
        async with self._sdk:
            workers = await self._begin()
            victim = await self._kill(workers)
            await self._replaced(workers, victim)
            await self._retried()
            await self._dead_letter()
            await self._taken_over(victim)
            await self._count()
        code = self._stage.stop()
        if code:
            self._story["problems"].append(f"the workers did not drain: exit code {code}")

    async def _begin(self) -> dict[str, int]:
        for report in REPORTS:
            if report.name != MISSING:
                (self._stage.folder / report.name).write_text(_TEXT * 20, encoding="utf-8")
        self._stage.start(WORKERS)

        async def all_alive() -> dict[str, int] | None:
            alive = await self._look.workers()
            return alive if len(alive) == WORKERS else None

        workers = await self._look.until("heartbeat of both workers", all_alive)
        pids = sorted(workers.values())
        self._say("workers", f"{len(pids)} are alive, pid {' and '.join(map(str, pids))}", pids=pids)
        for outcome in await self._sdk.publish_many([("report.uploaded", report) for report in REPORTS]):
            if isinstance(outcome, Exception):
                raise outcome
        number = await self._look.length("report.uploaded")
        self._say("published", f"{number} events are on the topic report.uploaded", events=number)
        return workers

    async def _kill(self, workers: dict[str, int]) -> int:
        async def half_way() -> tuple[str, float] | None:
            task = (await self._look.tasks("summarise")).get(LONG)
            if task is None or task.get("worker") not in workers:
                return None
            percent = await self._look.percent(task["id"])
            return None if percent is None or percent < HALF else (task["worker"], percent)

        name, percent = await self._look.until(f"progress of {LONG}", half_way)
        victim = workers[name]
        self._say("progress", f"{LONG} is at {percent:g} %, in pid {victim}", percent=percent, pid=victim)
        os.kill(victim, signal.SIGKILL)
        task = (await self._look.tasks("summarise"))[LONG]
        self._say(
            "kill -9",
            f"pid {victim} is killed; {LONG} is {task['state']!r} and still claimed by it, for {LEASE:g} s at most",
            pid=victim,
            state=task["state"],
        )
        return victim

    async def _replaced(self, workers: dict[str, int], victim: int) -> None:
        async def another() -> int | None:
            pids = [pid for name, pid in (await self._look.workers()).items() if name not in workers]
            return pids[0] if pids else None

        pid = await self._look.until("heartbeat of another worker", another)
        self._say("restarted", f"pid {pid} is alive in place of {victim}", pid=pid)

    async def _retried(self) -> None:
        task = await self._look.ended("summarise", BUSY)
        failed = [attempt for attempt in task["history"] if "error_type" in attempt]
        if not failed:
            raise DemoError(f"{BUSY} has no failed attempt in its record")
        error = f"{failed[0]['error_type']}: {failed[0]['error']}"
        text = f"{BUSY} failed at attempt {failed[0]['attempt']} ({error}) and is {task['state']} at {task['attempt']}"
        self._say("retried", text, attempt=task["attempt"], state=task["state"], error=error)
        self._expect("attempts of the retried task", 2, task["attempt"])

    async def _dead_letter(self) -> None:
        async def arrived() -> dict[str, Any] | None:
            letters = await self._sdk.dead_letters("report.uploaded")
            return letters[0] if letters else None

        letter = await self._look.until("dead letter", arrived)
        name, last = letter["content"]["name"], letter["last_error"]
        text = f"{name} is given up after {letter['attempt']} attempts ({last['type']}), and kept with its history"
        self._say("dead letter", text, id=letter["id"], reason=letter["reason"], attempts=letter["attempt"])
        # What was wrong is put right, and then the agent gets its event again.
        (self._stage.folder / MISSING).write_text(_TEXT * 3, encoding="utf-8")
        await self._sdk.replay_dead_letters([letter["id"]])

        async def replayed() -> dict[str, Any] | None:
            task = (await self._look.tasks("summarise")).get(name)
            return task if task is not None and task["state"] == "completed" else None

        task = await self._look.until(f"completion of the replayed {name}", replayed)
        left = len(await self._sdk.dead_letters())
        words = task["result"]["words"]
        self._say("replayed", f"{name} is {task['state']}: {words} words; {left} dead letters are left", left=left)
        self._expect("attempts before the dead letter", 3, letter["attempt"])
        self._expect("replays of the dead letter", 1, task["generation"])
        self._expect("dead letters left", 0, left)

    async def _taken_over(self, victim: int) -> None:
        task = await self._look.ended("summarise", LONG)
        summary = task["result"]
        text = (
            f"{LONG} is {task['state']} by pid {summary['finished_by']}; what pid {summary['read_by']} had read before"
            " it died was kept"
        )
        self._say("taken over", text, read_by=summary["read_by"], finished_by=summary["finished_by"])
        self._expect("process that read it", victim, summary["read_by"])
        self._expect("finished by the killed process", 0, int(summary["finished_by"] == victim))

    async def _count(self) -> None:
        for report in REPORTS:
            await self._look.ended("catalogue", report.name)
        tasks = await self._look.tasks("summarise")
        if not self._silent:
            line()
            rows = (
                (name, task["state"], task["attempt"], task["starts"], task["result"]["words"], task["runner_id"])
                for name, task in sorted(tasks.items())
                if "result" in task
            )
            table(
                ("  report", "state", "attempt", "starts", "words", "finished by"),
                (("  " + r[0], *r[1:]) for r in rows),
            )
            line()
        metrics = await self._sdk.metrics()
        summarise, catalogue = metrics["report.uploaded"]["summarise"], metrics["report.summarised"]["catalogue"]
        wanted = len(REPORTS)
        completed = sum(task["state"] == "completed" for task in tasks.values())
        self._expect("events on report.uploaded", wanted, await self._look.length("report.uploaded"))
        self._expect("results of summarise", wanted, completed)
        self._expect("results of summarise, as counted", wanted, summarise["tasks_processed"])
        self._expect("dead letters, as counted", 1, summarise["dead_lettered"])
        self._expect("events on report.summarised", wanted, await self._look.length("report.summarised"))
        self._expect("results of catalogue, as counted", wanted, catalogue["tasks_processed"])
        follow_ups = self._story["counts"]["events on report.summarised"]["found"]
        text = f"{wanted} events in, {completed} results out, {follow_ups} follow-up events, each once"
        self._say("counted", text, results=completed, follow_ups=follow_ups)

    def _expect(self, what: str, wanted: int, found: int) -> None:
        self._story["counts"][what] = {"wanted": wanted, "found": found}
        if found != wanted:
            self._story["problems"].append(f"{what}: {found} instead of {wanted}")
