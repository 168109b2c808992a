"""The memory adapters and the runner of callables keep their contracts, in virtual time where they can.

The memory package runs its contract on the real clock; here a minute of waiting takes none.
"""

import asyncio

import pytest

from omnidaemon import Context, NonRetryable, RetryAfter
from omnidaemon.runtime.callback import CallbackRunner
from omnidaemon_memory import MemoryBroker, MemoryEventBus, MemoryStore, MemoryTables
from omnidaemon_testing import EventBusContract, RunnerContract, StoreContract, WorkerContract
from omnidaemon_testing._virtual import LoopClock, VirtualLoop


class TestMemoryEventBus(EventBusContract):
    loop_factory = VirtualLoop
    clock = LoopClock()

    @pytest.fixture
    def make_bus(self, unique_prefix):
        brokers = {}

        def make(namespace=unique_prefix, **settings):
            broker = brokers.setdefault(namespace, MemoryBroker())
            return MemoryEventBus(broker, clock=self.clock, lease=self.timing.lease, **settings)

        return make


class TestMemoryStore(StoreContract):
    loop_factory = VirtualLoop
    clock = LoopClock()

    @pytest.fixture
    def make_store(self, unique_prefix):
        tables = {}
        return lambda namespace=unique_prefix: MemoryStore(
            tables.setdefault(namespace, MemoryTables()), clock=self.clock
        )


class TestMemoryWorker(WorkerContract):
    loop_factory = VirtualLoop
    clock = LoopClock()
    make_bus = TestMemoryEventBus.make_bus
    make_store = TestMemoryStore.make_store


async def echo(message):
    await asyncio.sleep(0)
    return message["content"]


async def fail(_):
    raise ConnectionError("try again")


async def busy(_):
    raise RetryAfter(7)


async def hopeless(_):
    raise NonRetryable("wrong key")


async def stream(_, context: Context):
    for number in range(5):
        await context.emit(number)
    return "done"


async def block(_, context: Context):
    while True:
        await context.progress("still here")
        await asyncio.sleep(0.005)


async def usage(_, context: Context):
    context.usage(input_tokens=1)
    context.usage(input_tokens=2, output_tokens=5)


async def ask(_, context: Context):
    try:
        return await context.ask("ship", "Ship it?")
    except Exception:  # noqa: BLE001
        return "swallowed"


AGENTS = {agent.__name__: agent for agent in (echo, fail, busy, hopeless, stream, block, usage, ask)}


class TestCallbackRunner(RunnerContract):
    @pytest.fixture
    def make_runner(self):
        return lambda behaviour: CallbackRunner(AGENTS[behaviour])


class TestThreadedCallbackRunner(RunnerContract):
    @pytest.fixture
    def make_runner(self):
        def make(behaviour):
            if behaviour == "block":
                return CallbackRunner(lambda _: None)
            if behaviour == "stream":

                def items(_):
                    yield from range(5)

                return CallbackRunner(items)
            agent = AGENTS[behaviour]
            if behaviour in ("usage", "ask"):

                def sync_with_context(message, context: Context):
                    return asyncio.run(agent(message, context))

                return CallbackRunner(sync_with_context)
            return CallbackRunner(lambda message: asyncio.run(agent(message)))

        return make
