"""The way between a process and a backend, where faults strike."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from omnidaemon.model.errors import BackendUnavailable, OmniDaemonError
from omnidaemon.model.run import Delivery, Grant
from omnidaemon.ports.store import Due

if TYPE_CHECKING:
    from simulation.loop import Process
    from simulation.world import World

__all__ = ["Line", "Lost"]

T = TypeVar("T")
# Calls that are repeatable, so that a late duplicate of them from the network must do no harm.
LATE = frozenset(
    {"claim", "due", "renew", "adopt", "settle", "defer", "outbox", "sent", "append", "note"}
    | {"publish", "ack", "extend", "give_back"}
)
TWICE = LATE | {"get", "scan", "records", "agents", "now", "count", "info", "topics", "notes", "follow"}

QUIET = frozenset({"get", "put", "outbox", "now", "agents"})


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call on its way; ``half`` carries out a part of its batch."""

    name: str
    make: Callable[[], Coroutine[Any, Any, T]]
    half: Callable[[], Coroutine[Any, Any, T]] | None = None


class Lost(BackendUnavailable):
    """The call failed on its way; ``sent`` tells whether it may have been, or may yet be, carried out."""

    def __init__(self, what: str, *, sent: bool) -> None:
        super().__init__(f"simulated: {what}")
        self.sent = sent


class Line:
    """Carries calls of one process to ``bus`` or ``store``."""

    def __init__(self, world: World, process: Process, part: str) -> None:
        self.world, self.process, self.part = world, process, part

    async def carry(
        self,
        name: str,
        call: Callable[[], Coroutine[Any, Any, T]],
        half: Callable[[], Coroutine[Any, Any, T]] | None = None,
    ) -> T:
        """Carry one call there and its reply back."""
        world = self.world
        fault = world.draw_fault(self) if world.rates else None
        if fault is not None:
            world.trace("fault", f"{self.process.name} {self.part}.{name}: {fault}")
            self.process.disturbed_at = world.loop.time()
            handler: Callable[..., Awaitable[T]] = getattr(self, f"_{fault}")
            return await handler(Call(name, call, half))
        await asyncio.sleep(world.travel())
        self._check(name, sent=False)
        answer = await call()
        if world.verbose and name not in QUIET:
            world.trace("call", f"{self.process.name} {self.part}.{name}: {_short(answer):.300}")
        if world.rng.random() < 0.3:
            await asyncio.sleep(world.travel())
        self._check(name, sent=True)
        return answer

    def _check(self, name: str, *, sent: bool) -> None:
        down = self.world.down
        if down and (self.part in down or (self.process.name, self.part) in down):
            self.process.disturbed_at = self.world.loop.time()
            raise Lost(f"{self.part} is down, {name}", sent=sent)

    async def _lost_request(self, call: Call[Any]) -> Any:
        await asyncio.sleep(self.world.travel())
        raise Lost(f"{call.name} got lost", sent=False)

    async def _lost_reply(self, call: Call[Any]) -> Any:
        await asyncio.sleep(self.world.travel())
        await call.make()
        await asyncio.sleep(self.world.travel())
        raise Lost(f"the reply to {call.name} got lost", sent=True)

    async def _half(self, call: Call[Any]) -> Any:
        await asyncio.sleep(self.world.travel())
        if call.half is not None:
            await call.half()
        raise Lost(f"{call.name} was cut short", sent=call.half is not None)

    async def _twice(self, call: Call[Any]) -> Any:
        await asyncio.sleep(self.world.travel())
        if call.name in TWICE:
            await call.make()
            await asyncio.sleep(self.world.travel())
        return await call.make()

    async def _slow(self, call: Call[Any]) -> Any:
        late = self.world.rng.uniform(0.2, 3.0)
        if self.world.rng.random() < 0.5:
            await asyncio.sleep(late)
            self._check(call.name, sent=False)
            return await call.make()
        answer = await call.make()
        await asyncio.sleep(late)
        self._check(call.name, sent=True)
        return answer

    async def _zombie(self, call: Call[Any]) -> Any:
        """The caller is told that it failed, and it is carried out later."""
        await asyncio.sleep(self.world.travel())
        if call.name in LATE:
            late = self.world.rng.choice((0.01, 0.3, 1.0, 4.0))
            self.world.loop.call_later(late, self._carried_out, call.make, context=contextvars.Context())
        raise Lost(f"{call.name} timed out", sent=True)

    @staticmethod
    def _carried_out(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        work = call()
        try:
            work.send(None)
        except (StopIteration, OmniDaemonError):
            return
        work.close()

    async def _kill(self, call: Call[Any]) -> Any:
        if self.world.rng.random() < 0.5:
            self.world.kill(self.process)
        else:
            await asyncio.sleep(self.world.travel())
            if call.name not in {"read", "take"}:
                await call.make()
            self.world.kill(self.process)
        return await self.world.loop.create_future()

    async def _stop(self, call: Call[Any]) -> Any:
        answer = None
        before = self.world.rng.random() < 0.5
        if not before:
            answer = await call.make()
        self.world.stop(self.process)
        await asyncio.sleep(0)
        return await call.make() if before else answer


def _short(answer: Any) -> str:
    """Say an answer in few words."""
    if isinstance(answer, list):
        return "[" + ", ".join(_short(item) for item in answer) + "]"
    if isinstance(answer, tuple):
        return "(" + ", ".join(_short(item) for item in answer) + ")"
    if isinstance(answer, Delivery):
        after = f" after {answer.after}" if answer.after else ""
        return f"{answer.group.agent}:{answer.id}@{answer.position}{after}"
    if isinstance(answer, Grant):
        return f"{answer.kind} {answer.event_id}"
    if isinstance(answer, Due):
        grants = [f"{group.agent}:{grant.event_id}" for group, all_ in answer.grants.items() for grant in all_]
        return f"due {grants} suspects {sorted(answer.suspects)} next {answer.next_in}"
    return repr(answer)
