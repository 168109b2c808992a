"""Several processes on one file."""

import asyncio
import contextlib
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from omnidaemon.model.run import Group, Outgoing, Start
from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore

SCRIPT = pathlib.Path(__file__).with_name("processes.py")
GROUP = Group("news", "a", 1)
BEGINNING, NOW = Start("beginning"), Start("now")


@pytest.fixture
def run():
    """Start processes; end those that are left."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def begin_together(processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


@contextlib.asynccontextmanager
async def opened(path):
    bus, store = SQLiteEventBus(path), SQLiteStore(path)
    await bus.open()
    await store.open()
    yield bus, store
    await store.close()
    await bus.close()


def test_six_processes_make_one_file_at_once(run, tmp_path):
    path = str(tmp_path / "new" / "omni.db")
    processes = [run("start", path, f"p{n}") for n in range(6)]
    begin_together(processes)
    assert [process.wait(20) for process in processes] == [0] * 6

    async def look():
        async with opened(path) as (bus, store):
            assert [item.key for item in (await store.scan("started")).items] == [f"p{n}" for n in range(6)]
            assert (await bus.info("news")).length.value == 6

    asyncio.run(look())


def test_four_processes_settle_each_event_once(run, tmp_path):
    path = str(tmp_path / "omni.db")

    async def prepare():
        async with opened(path) as (bus, store):
            await store.enroll("news", "a", b"{}")
            await bus.ensure("news", {GROUP: BEGINNING})
            await bus.publish([Outgoing("news", f"e{n}", b"x" * 200) for n in range(2000)], 5)

    asyncio.run(prepare())
    processes = [run("work", path, f"w{n}") for n in range(4)]
    begin_together(processes)
    settled = [process.communicate(timeout=60)[0].split()[1:] for process in processes]
    assert sorted(event for events in settled for event in events) == sorted(f"e{n}" for n in range(2000))
    assert sum(1 for events in settled if events) > 1, "they share the work"

    async def look():
        async with opened(path) as (bus, store):
            assert (await store.metrics())[0].counts == {"done": 2000}
            group = (await bus.info("news")).groups[0]
            assert (group.lag.value, group.pending.value) == (0, 0)

    asyncio.run(look())


def test_what_a_killed_process_held_is_settled_once_by_others(run, tmp_path):
    path = str(tmp_path / "omni.db")

    async def prepare():
        async with opened(path) as (bus, store):
            await store.enroll("news", "a", b"{}")
            await bus.ensure("news", {GROUP: BEGINNING})
            await bus.publish([Outgoing("news", f"e{n}", b"x" * 200) for n in range(1500)], 5)

    async def count():
        async with opened(path) as (bus, store):
            group, counts = (await bus.info("news")).groups[0], await store.metrics()
            return group.lag.value, group.pending.value, counts[0].counts["done"] if counts else 0

    asyncio.run(prepare())
    killed = [run("work", path, f"k{n}", "0.5", "2") for n in range(2)]
    begin_together(killed)
    while asyncio.run(count())[2] < 300:
        pass
    for process in killed:
        process.kill()
        process.wait()
    before = asyncio.run(count())
    assert before[0] > 0, "they were killed at work"
    process = run("work", path, "last", "0.5", "1")
    begin_together([process])
    settled = process.communicate(timeout=30)[0].split()[1:]
    assert len(settled) == len(set(settled)) == 1500 - before[2]
    assert asyncio.run(count()) == (0, 0, 1500)


def test_what_was_confirmed_before_a_kill_is_there(run, tmp_path):
    path = str(tmp_path / "omni.db")
    for number in range(3):
        process = run("publish", path, f"p{number}")
        confirmed = [process.stdout.readline().strip() for _ in range(5 + 7 * number)]
        process.send_signal(signal.SIGKILL)
        confirmed += process.communicate()[0].split()

        async def look(last=confirmed[-1]):
            async with opened(path) as (bus, _):
                group = Group("news", last, 1)
                await bus.ensure("news", {group: BEGINNING})
                ids = [delivery.id for delivery in await bus.read({group: 100_000}, 0)]
            assert last in ids
            prefix, count = last.split("-")
            own = [event for event in ids if event.startswith(prefix)]
            assert own[: int(count) + 1] == [f"{prefix}-{n}" for n in range(int(count) + 1)]
            assert len(own) % 20 == 0, "a batch is there as a whole or not at all"

        asyncio.run(look())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_publish_of_another_process_wakes_a_reader(run, tmp_path):
    path = str(tmp_path / "omni.db")
    process = run("publish_late", path, "e1")

    async def read():
        async with opened(path) as (bus, _):
            await bus.ensure("news", {GROUP: BEGINNING})
            reading = asyncio.create_task(bus.read({GROUP: 1}, 20))
            await asyncio.to_thread(begin_together, [process])
            deliveries = await reading
            return [delivery.id for delivery in deliveries], time.time()

    ids, woken = asyncio.run(read())
    published = float(process.communicate()[0])
    assert ids == ["e1"]
    assert woken - published < 1.0


def test_a_stopped_process_costs_a_timeout_and_nothing_else(run, tmp_path):
    path = str(tmp_path / "omni.db")
    process = run("publish", path, "p")
    process.stdout.readline()

    async def look():
        bus = SQLiteEventBus(path, timeout=0.2)
        await bus.open()
        outcomes = []
        for _ in range(50):  # until the signal meets it inside a transaction
            process.send_signal(signal.SIGSTOP)
            outcomes += await bus.publish([Outgoing("other", f"e{len(outcomes)}", b"")], 1)
            process.send_signal(signal.SIGCONT)
            if isinstance(outcomes[-1], Exception):
                break
            await asyncio.sleep(0.002)
        process.kill()
        stored = [body async for _, body in bus.history("other", BEGINNING, NOW)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(stored) == len(outcomes) - len(refused)
        assert all("another process" in str(error) for error in refused)
        assert not isinstance((await bus.publish([Outgoing("other", "last", b"")], 1))[0], Exception)
        await bus.close()

    asyncio.run(look())
