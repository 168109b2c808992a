"""What the tests run in processes of their own: `python processes.py <what> <file> [...]`."""

import asyncio
import sys
import time

from omnidaemon.model.run import DueWant, Group, Outcome, OutcomeKind, Outgoing, Start
from omnidaemon.ports.store import Put
from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore

GROUP = Group("news", "a", 1)


def go():
    """Wait until the parent says so, that several processes begin at once."""
    print("ready", flush=True)
    sys.stdin.readline()


async def start(path, name):
    """Open a file that is not there yet, together with others."""
    bus, store = SQLiteEventBus(path), SQLiteStore(path)
    go()
    await bus.open()
    await store.open()
    await store.put("started", [Put(name, b"")])
    await bus.publish([Outgoing("news", name, b"")], 1)
    await store.close()
    await bus.close()


async def work(path, name, lease="15", wait="0.3"):
    """Take and settle what there is, and say what was settled."""
    bus, store = SQLiteEventBus(path, lease=float(lease)), SQLiteStore(path)
    await bus.open()
    await store.open()
    fusion, number, settled, slowest = store.fuse(bus), 0, [], 0.0
    go()
    while True:
        number += 1
        begun = time.perf_counter()
        pairs = await fusion.take(name, f"{name}-{number}", {GROUP: DueWant(10, float(lease))}, float(wait))
        if not pairs:
            break
        outcomes = [
            Outcome(
                GROUP, delivery.id, grant.token, OutcomeKind.FINAL, result=b"1", counts=[("done", 1)], delivery=delivery
            )
            for delivery, grant in pairs
            if grant.kind == "granted"
        ]
        accepted = await store.settle(outcomes)
        slowest = max(slowest, time.perf_counter() - begun)
        settled += [outcome.event_id for outcome, yes in zip(outcomes, accepted, strict=True) if yes]
    print(f"{slowest:.3f}", *settled, flush=True)
    await store.close()
    await bus.close()


async def publish(path, name):
    """Publish until killed, and say what was confirmed."""
    bus = SQLiteEventBus(path)
    await bus.open()
    number = 0
    while True:
        batch = [Outgoing("news", f"{name}-{number + n}", b"x" * 2000) for n in range(20)]
        number += 20
        await bus.publish(batch, 1)
        print(batch[-1].id, flush=True)


async def publish_late(path, name):
    """Publish one event when told to."""
    bus = SQLiteEventBus(path)
    await bus.open()
    go()
    await bus.publish([Outgoing("news", name, b"")], 1)
    print(time.time(), flush=True)
    await bus.close()


async def read(path, _name):
    """Print the position of each event of the history."""
    bus = SQLiteEventBus(path)
    await bus.open()
    go()
    async for position, _ in bus.history("news", Start("beginning"), Start("now")):
        print(position, flush=True)
    await bus.close()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
