"""What must hold when everything has come to rest (design §5, §7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omnidaemon.model import jsontext
from omnidaemon.model.run import Group, TaskState
from omnidaemon.ports.ledger import RunRow
from simulation.agents import expected

if TYPE_CHECKING:
    from simulation.history import History
    from simulation.profile import AgentPlan
    from simulation.world import World

__all__ = ["asking", "at_end", "at_rest", "unfinished"]

CRASH_LOOP = 3


def groups(history: History) -> list[Group]:
    """Return the groups of the agents that are registered."""
    return [row.group for row in history.world.tables.agents() if not row.deleted]


def asking(history: History) -> list[RunRow]:
    """Return the runs that wait for an answer which nobody but the driver can give."""
    return [
        row
        for group in groups(history)
        for row in history.world.tables.live(group)
        if row.state is TaskState.INPUT_REQUIRED and row.question == "q" and row.token is None
    ]


def unfinished(history: History) -> str:
    """Return why the world is not at rest, or nothing."""
    return next((why for why in _reasons(history)), "")


def _reasons(history: History) -> Iterator[str]:
    world = history.world
    yield from _busy_workers(world)
    if history.busy:
        yield f"the driver is busy: {history.busy[0][1].get_name()}"
    for group in groups(history):
        for row in world.tables.live(group):
            yield f"{group.agent} {row.event_id} is {row.state} {row}"
        if world.broker.unfinished(group):
            yield f"the bus has something for {group}"
    if world.tables.next_outbox() is not None:
        yield "the outbox is not empty"
    if history.profile.theme == "forget" and any(world.tables._marks.get(group) for group in groups(history)):
        yield "done marks have not been forgotten"
    rows = {(row.topic, row.agent): row for row in world.tables.agents()}
    for group in world.broker.all_groups():
        if group.epoch != rows[group.topic, group.agent].epoch:
            yield f"the bus still has {group}, whose epoch has ended"


def _busy_workers(world: World) -> Iterator[str]:
    for server in world.servers:
        if server.process.halted == "dead" or server.left:
            continue
        state = server.worker.state
        if state.jobs or state.finished or state.doubtful or state.outgoing or not (server.ready or server.leaving):
            yield f"{server.process.name} has {len(state.jobs)} jobs, {len(state.finished)} to settle"
        if server.leaving:
            yield f"{server.process.name} is leaving"


def at_rest(history: History) -> None:
    """Judge records, results, counters and follow-ups."""
    _published(history)
    for group in groups(history):
        _outcomes(history, group)
    _counters(history)
    for server in history.world.servers:
        for sub in server.worker.state.subscriptions.values() if server.alive else ():
            if sub.busy or sub.from_inbox:
                lost = f"{sub.busy}/{sub.from_inbox} slots of {sub.group}"
                history.world.oracle.wrong(f"{server.process.name} has lost {lost}")


def _published(history: History) -> None:
    """What was published, or follows from an accepted settle, is on the bus, and nothing else."""
    world = history.world
    present = {topic: {entry.id for entry in world.broker.entries(topic)} for topic in ("t1", "t2")}
    for event in history.profile.events:
        if event.id in history.sure and event.id not in present[event.topic]:
            world.oracle.wrong(f"{event.id} was published and is not on the bus")
    for (topic, event_id), source in world.oracle.followups.items():
        agent = world.tables.agent(source[0], source[1])
        gone = agent is None or agent.epoch > 1
        if event_id not in present[topic] and not gone:
            world.oracle.wrong(f"follow-up {event_id} of {source} was planned and is not on the bus")
    known = history.maybe | {event_id for _, event_id in world.oracle.followups}
    for topic, ids in present.items():
        for event_id in ids - known:
            world.oracle.wrong(f"{event_id} on {topic} was never published")


def _outcomes(history: History, group: Group) -> None:
    """Each event that the group was to get has one final outcome, and the right one."""
    world = history.world
    plan = next(plan for plan in history.profile.agents if plan.name == group.agent)
    start = world.broker.starts.get(group)
    if start is None:
        world.oracle.wrong(f"the bus has no {group}")
        return
    plans = {event.id: event.plan for event in history.profile.events}
    for entry in world.broker.entries(group.topic):
        if entry.position <= start:
            continue
        row = world.tables.run(group.topic, group.agent, entry.id)
        if row is None or row.group != group:
            # Its record may have been cleared or have expired, after its end.
            if (group, entry.id) not in world.oracle.ended:
                world.oracle.wrong(f"{group.agent} has lost {entry.id}")
        else:
            _outcome(history, plan, plans.get(entry.id, "ok"), row)


def _outcome(history: History, plan: AgentPlan, name: str, row: RunRow) -> None:
    world, what = history.world, f"{plan.name} {row.event_id} ({name})"
    if not row.state.final:
        world.oracle.wrong(f"{what} is {row.state}")
    if row.state is TaskState.CANCELED or (world.skipped and row.state is TaskState.REJECTED):
        return
    if row.state is TaskState.COMPLETED and jsontext.load(row.result or b"{}").get("of") != row.event_id:
        world.oracle.wrong(f"{what} has the result {row.result!r}")
    looped = row.dead == "crash_loop" and row.lost >= plan.attempts + CRASH_LOOP
    if looped and (name == "bomb" or history.profile.theme != "bomb"):
        return
    # A run that a slow store or its own length holds up may time out.
    late = row.dead == "timeout" and plan.timeout is not None
    if (row.state, row.dead) not in expected(name, plan) and not late:
        world.oracle.wrong(f"{what} ended as {row.state} {row.dead}")


def _counters(history: History) -> None:
    """The store's counts are the sums of the accepted settles."""
    world = history.world
    for metric in world.tables.counts(None, None, None, None):
        ours = world.oracle.counts.get((metric.topic, metric.agent), {})
        for name, value in metric.counts.items():
            mine = ours.get(name, 0.0)
            if name != "canceled" and abs(mine - value) > 1e-6:
                world.oracle.wrong(f"{metric.agent} counts {value} {name}, the accepted settles {mine}")
    if history.profile.theme in ("calm", "outage") and world.oracle.lost:
        world.oracle.wrong(f"{world.oracle.lost} starts were lost though no worker was")
    if history.profile.theme == "calm":
        _exact(history)


def _exact(history: History) -> None:
    """Without faults and commands everything happens once."""
    world = history.world
    for (group, event_id, generation, attempt), count in world.oracle.calls.items():
        back = world.oracle.handed_back[group, event_id, generation, attempt]
        if count > 1 + back + world.oracle.postponed[group, event_id, generation]:
            world.oracle.wrong(f"{group.agent} {event_id} n{attempt} ran {count} times without a fault")
    for metric in world.tables.counts(None, None, None, None):
        rows = [
            row
            for row in world.tables._runs._rows.values()
            if (row.group.topic, row.group.agent) == (metric.topic, metric.agent)
        ]
        states = Counter(row.state for row in rows)
        sums = {
            "received": len(rows),
            "processed": states[TaskState.COMPLETED],
            "failed": states[TaskState.FAILED],
            "rejected": states[TaskState.REJECTED],
        }
        for name, value in sums.items():
            if metric.counts.get(name, 0) != value:
                world.oracle.wrong(f"{metric.agent} counts {metric.counts.get(name, 0)} {name}, there are {value}")


def at_end(history: History) -> None:
    """Judge what is left of workers that have stopped."""
    for server in history.world.servers:
        if server.process.halted == "dead":
            continue
        state = server.worker.state
        calm = max(server.process.disturbed_at, history.world.disturbed_at) < server.leaving_at
        if calm and (state.jobs or state.finished):
            history.world.oracle.wrong(f"{server.process.name} left with {len(state.jobs)} jobs")
        open_tasks = [task.get_name() for task in server.process.tasks if not task.done()]
        if open_tasks:
            history.world.oracle.wrong(f"{server.process.name} leaves tasks: {open_tasks[:5]}")
