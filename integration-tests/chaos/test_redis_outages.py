"""The Redis server is killed, its connections are cut, delayed and truncated; nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.crew import Crew
from chaos.proxy import Proxy
from services.redis import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
EVENTS = 300
Servers = Callable[..., RedisServer]


def crew_on(url: str, folder: Path) -> Crew:
    return Crew(url, f"chaos{secrets.token_hex(4)}", folder)


def test_l2_the_server_is_killed_and_restarted_in_mid_flow(redis_server: Servers, tmp_path: Path) -> None:
    server = redis_server(appendfsync="always")

    async def main(crew: Crew) -> None:
        async with crew.sdk() as sdk:
            crew.start(2)
            publishing = asyncio.create_task(crew.publish(sdk, 0, EVENTS))
            for done in (30, 100):
                await crew.until(lambda done=done: len(crew.runs("end")) > done, 30, "the work")
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.restart)
            await crew.settled(sdk, await publishing)

    with crew_on(server.url, tmp_path) as crew:
        asyncio.run(main(crew))


def test_l2_every_connection_is_killed_again_and_again(redis_server: Servers, tmp_path: Path) -> None:
    server = redis_server()

    async def main(crew: Crew) -> None:
        async with crew.sdk() as sdk:
            crew.start(2)
            publishing = asyncio.create_task(crew.publish(sdk, 0, EVENTS))
            with server.client() as client:
                for done in (20, 60, 100, 140):
                    await crew.until(lambda done=done: len(crew.runs("end")) > done, 30, "the work")
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await crew.settled(sdk, await publishing)

    with crew_on(server.url, tmp_path) as crew:
        asyncio.run(main(crew))


@pytest.mark.parametrize("fault", ["drop", "swallow", "truncate", "delay"])
def test_m1_replies_get_lost_on_the_way(redis_server: Servers, tmp_path: Path, fault: str) -> None:
    server = redis_server()

    async def main(crew: Crew, proxy: Proxy) -> None:
        async with crew.sdk() as sdk:
            crew.start(2)
            publishing = asyncio.create_task(crew.publish(sdk, 0, EVENTS))
            for done in (20, 80, 140):
                await crew.until(lambda done=done: len(crew.runs("end")) > done, 60, "the work")
                if fault == "truncate":
                    proxy.truncate(7)
                elif fault == "delay":
                    proxy.delay(0.3)
                else:
                    getattr(proxy, fault)()
                await asyncio.sleep(0.4)
                proxy.heal()
                if fault == "swallow":
                    proxy.drop()
            await crew.settled(sdk, await publishing)

    with Proxy(server.host, server.port) as proxy, crew_on(f"redis://127.0.0.1:{proxy.port}/0", tmp_path) as crew:
        asyncio.run(main(crew, proxy))
