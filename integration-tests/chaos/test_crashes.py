"""Workers are killed, frozen and drained in mid-flow on real backends; what went in must come out, once."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.crew import LEASE, Crew

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
EVENTS = 400


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crew]:
    file = f"sqlite:///{tmp_path / 'chaos.db'}"
    backend = request.getfixturevalue("redis_url") if request.param == "redis" else file
    with Crew(backend, f"chaos{secrets.token_hex(4)}", tmp_path) as made:
        yield made


def test_d1_d3_kill_9_loses_nothing_and_others_take_over(crew: Crew) -> None:
    async def main() -> None:
        async with crew.sdk() as sdk:
            crew.start(3)
            ids = await crew.publish(sdk, 0, EVENTS // 2)
            for index in range(2):
                await crew.until(lambda index=index: len(crew.runs("start")) > 40 * (index + 1), 30, "the work")
                crew.processes[index].kill()
                crew.start(1)
            ids += await crew.publish(sdk, EVENTS // 2, EVENTS // 2)
            await crew.settled(sdk, ids)
            starts = crew.runs("start")
            failed = EVENTS // 10
            # Only what a killed worker had in its hands may have begun again.
            assert sum(starts.values()) - failed <= EVENTS + 2 * 2 * 8

    asyncio.run(main())


def test_d5_a_worker_stopped_past_its_lease_settles_nothing_twice(crew: Crew) -> None:
    async def main() -> None:
        async with crew.sdk() as sdk:
            first, _ = crew.start(2)
            ids = await crew.publish(sdk, 0, EVENTS)
            await crew.until(lambda: len(crew.runs("start")) > 40, 30, "the work")
            first.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE * 2)
            first.send_signal(signal.SIGCONT)
            await crew.settled(sdk, ids)

    asyncio.run(main())


def test_l1_sigterm_finishes_what_runs_and_repeats_nothing(crew: Crew) -> None:
    async def main() -> None:
        async with crew.sdk() as sdk:
            first, second = crew.start(2)
            ids = await crew.publish(sdk, 0, EVENTS)
            await crew.until(lambda: len(crew.runs("start")) > 40, 30, "the work")
            first.terminate()
            assert await asyncio.to_thread(first.wait, 20) == 0
            crew.start(1)
            second.terminate()
            assert await asyncio.to_thread(second.wait, 20) == 0
            await crew.settled(sdk, ids)
            assert sum(crew.runs("start").values()) == EVENTS + EVENTS // 10, "a drained run began again"

    asyncio.run(main())
