"""What all contract classes share: how a test gets its adapters, waits, and says why it was skipped."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest

from omnidaemon.ports.clock import Clock, SystemClock
from omnidaemon_testing.timing import ContractTiming

__all__ = ["Caught", "ContractBase", "Stalled"]

T = TypeVar("T")
_PATIENCE = 5


class Stalled(Exception):
    """The test's own process was held up for so long that what it saw proves nothing."""


class Caught:
    """What :meth:`ContractBase.refusal` caught; ``error`` is set when its block is left."""

    error: BaseException | None = None


class ContractBase:
    """Base of the contract classes.

    A subclass overrides the sync fixtures that its contract names, and nothing else. A rule that a
    backend does not keep yet is overridden by ``@pytest.mark.xfail(reason=..., strict=True)``.

    Attributes:
        timing: The times of this run.
        clock: The clock that elapsed times are measured on.
        loop_factory: Makes the event loop of each test; None for asyncio's own.
        broken_by: Errors that say, like a failed assertion, that a rule was not kept.
        restart_server: Restarts the backend's server and returns when it is back; may be async. None
            where the tests that need it are not to be tried; ``--omnidaemon-restart-cmd`` sets it too.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.omnidaemon_contract]
    timing: ContractTiming = ContractTiming()
    clock: Clock = SystemClock()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    restart_server: Callable[[], Any] | None = None

    broken_by: ClassVar[tuple[type[Exception], ...]] = ()
    prefix: str = "test"
    facts: dict[str, Any]
    _closing: contextlib.AsyncExitStack
    _restart_command: Callable[[], Any] | None = None

    @pytest.fixture(autouse=True)
    def _contract_setup(self, request: pytest.FixtureRequest, unique_prefix: str) -> None:
        self.begin(unique_prefix)
        command = request.config.getoption("omnidaemon_restart_cmd", None)
        if command:
            from omnidaemon_testing.plugin import run_command

            self._restart_command = lambda: run_command(command)

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Keep an anyio plugin in auto mode from running every test once per backend."""
        return "asyncio"

    # --- the life of a test -------------------------------------------------------------------

    def begin(self, prefix: str) -> None:
        """Get ready for one test; the plugin's fixture calls it."""
        self.prefix, self.facts = prefix, {}
        self._closing = contextlib.AsyncExitStack()

    async def finish(self) -> None:
        """Close what the test opened; called in the test's own loop, whatever its outcome."""
        await self._closing.aclose()

    # --- saying why a rule was not run ----------------------------------------------------------

    def needs(self, adapter: Any, capability: str) -> None:
        """Skip the test unless the adapter declares the capability."""
        if not getattr(adapter.capabilities, capability):
            self.absent(adapter, capability)

    def absent(self, adapter: Any, capability: str) -> NoReturn:
        """Skip the test because the adapter declares that it cannot do that."""
        note = getattr(adapter.capabilities, "notes", {}).get(capability, "")
        pytest.skip(f"capability: {adapter.capabilities.name} has no {capability}{': ' if note else ''}{note}")

    def not_tried(self, reason: str) -> NoReturn:
        """Skip the test and have the report say that the rule was not tried."""
        pytest.skip(f"not tried: {reason}")

    async def restart(self, adapter: Any) -> None:
        """Restart the server of ``adapter``, or skip the test."""
        if adapter.capabilities.durability == "process" or not adapter.capabilities.restartable:
            self.absent(adapter, "restartable")
        restart = self.restart_server or self._restart_command
        if restart is None:
            self.not_tried("needs a server restart: give --omnidaemon-restart-cmd or override restart_server")
        outcome = await asyncio.to_thread(restart)
        if inspect.isawaitable(outcome):
            await outcome

    # --- waiting and catching ---------------------------------------------------------------------

    def time(self) -> float:
        """Return seconds for measuring what elapsed."""
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let time pass; only for rules that are about time."""
        await asyncio.sleep(seconds)

    async def until(self, look: Callable[[], Awaitable[T]], what: str, within: float | None = None) -> T:
        """Return what ``look`` returns as soon as it is true; fail after the deadline.

        Args:
            look: Called again and again.
            what: What is awaited, for the message.
            within: Seconds; the deadline of ``timing`` if not given.
        """
        limit = self.timing.deadline if within is None else within
        begun = self.time()
        while True:
            # Looked at once more after the limit: a held-up test process is not the backend's fault.
            late = self.time() - begun > limit
            value = await look()
            if value:
                return value
            assert not late, f"not within {limit:g} s: {what} (last seen: {value!r})"
            await asyncio.sleep(self.timing.poll)

    @contextlib.asynccontextmanager
    async def refusal(self, *kinds: type[BaseException]) -> AsyncGenerator[Caught]:
        """Assert that the block raises one of ``kinds``."""
        names, caught = " or ".join(kind.__name__ for kind in kinds), Caught()
        try:
            yield caught
        except kinds as error:
            caught.error = error
        except Exception as error:
            raise AssertionError(f"raised {type(error).__qualname__} ({error}) instead of {names}") from error
        else:
            raise AssertionError(f"was accepted, and must raise {names}")

    async def patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Run ``attempt`` again when it raises ``Stalled``: the machine, not the backend, was late."""
        for _ in range(_PATIENCE):
            with contextlib.suppress(Stalled):
                await attempt()
                return
        self.not_tried(f"this machine stalled in {_PATIENCE} tries; scale the timing")

    # --- the contract itself ------------------------------------------------------------------------

    @classmethod
    def rules(cls) -> dict[str, Any]:
        """Return the contract's tests by name, as this package defines them."""
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            if base.__module__.startswith("omnidaemon_testing.contracts"):
                found.update({name: test for name, test in vars(base).items() if name.startswith("test_")})
        return found

    def test_port_no_rule_is_removed_or_replaced(self) -> None:
        """Every rule is run as written, or is an ``xfail`` that says why.

        Trouble-shooting: delete the override, or write
        ``@pytest.mark.xfail(reason="what the backend cannot do yet", strict=True)`` above it.
        """
        changed = []
        for name, rule in type(self).rules().items():
            mine = inspect.getattr_static(type(self), name, None)
            marks = getattr(mine, "pytestmark", [])
            if mine is not rule and not any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks):
                changed.append(name)
        assert not changed, f"{type(self).__name__} removes or overrides without xfail(reason=...): {changed}"
