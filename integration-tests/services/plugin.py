"""Pytest plugin: real servers as fixtures.

- ``redis_url``: one server for the whole run (of each xdist worker), shared: use prefixes of your own.
- ``redis_server``: a factory of private servers, ``redis_server(appendfsync="always")``, to kill, freeze and restart.
- ``redis_sentinel``, ``redis_cluster``, ``redis_tls``: one of each for the run.

A test that uses one of them carries the marker ``redis`` by itself. If no server can be had, the run fails before its
first test; ``OMNIDAEMON_TEST_SERVICES=`` leaves such tests out on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.redis import RedisServer
    from services.redis_variants import RedisCluster, RedisSentinel, RedisTLS

_PRIVATE_FIXTURES = {"redis_server", "redis_sentinel", "redis_cluster", "redis_tls"}
_MISSING = pytest.StashKey[str]()
_EXIT = 4  # as for a usage error
_FIXTURES = {"redis_url"} | _PRIVATE_FIXTURES


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, and leave out what was left out on purpose."""
    for item in items:
        if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.redis)
    if "redis" not in _wanted():
        left_out = [item for item in items if item.get_closest_marker("redis")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("redis")]


@pytest.hookimpl(tryfirst=True)  # before an xdist worker tells what it collected
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail now, and not in the middle of the run, if a server that is needed cannot be had."""
    if session.config.option.collectonly:
        return
    needed = [item for item in session.items if item.get_closest_marker("redis")]
    if not needed:
        return
    from services import redis

    private = any(not _PRIVATE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) for item in needed)
    try:
        found = redis.provision()
        if found.kind == "url":
            redis.server_version(found.what)
        if private:
            redis.provision(private=True)
    except services.ServiceUnavailableError as error:
        message = f"{error}\n({len(needed)} of {len(session.items)} tests need it)"
        if not hasattr(session.config, "workeroutput"):
            pytest.exit(message, returncode=_EXIT)
        # Leaving from here would look like a crash of the xdist worker: it runs nothing, and the controller tells why.
        session.config.workeroutput["services"] = message
        session.items.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker could not have."""
    if message := getattr(node, "workeroutput", {}).get("services"):
        node.config.stash[_MISSING] = message


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run that could not begin."""
    if session.config.stash.get(_MISSING, ""):
        session.exitstatus = _EXIT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say once what is missing."""
    if message := config.stash.get(_MISSING, ""):
        terminalreporter.section("services", red=True)
        terminalreporter.write_line(message)


def pytest_report_header() -> list[str]:
    """Say which source and version serves each server."""
    if "redis" not in _wanted():
        return ["services: redis is left out by OMNIDAEMON_TEST_SERVICES"]
    from services import redis

    shared, private = redis.source(), redis.source(private=True)
    if shared.kind == "none":
        return ["services: redis from nowhere yet (tests that need it will say what to do)"]
    label = shared.label
    if shared.kind == "url":
        try:
            label = f"{redis.server_version(shared.what)}, {shared.label}"
        except services.ServiceUnavailableError:
            label = f"{shared.label} (does not answer)"
    if shared.kind == "binary":
        return [f"services: redis = {label}"]
    return [f"services: redis = {label}; private ones = {private.label}"]


def _wanted() -> frozenset[str]:
    try:
        return services.wanted()
    except services.ServiceUnavailableError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of the run's one server."""
    from services import redis

    found = redis.provision()
    if found.kind == "url":
        yield found.what
    elif found.kind == "docker":
        url, container = redis.start_container()
        yield url
        container.stop()
    else:
        url = redis.start()
        yield url
        redis.stop(url)


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """A factory of private servers; they end with the test."""
    from services.redis import RedisServer

    servers: list[RedisServer] = []

    def make(**options: str | float) -> RedisServer:
        server = RedisServer(**options)  # type: ignore[arg-type] # options are those of redis.conf
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and a sentinel. A test that fails over makes its own `RedisSentinel`."""
    from services.redis_variants import RedisSentinel

    sentinel = RedisSentinel()
    try:
        yield sentinel.start()
    finally:
        sentinel.stop()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A cluster of three masters."""
    from services.redis_variants import RedisCluster

    cluster = RedisCluster()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def redis_tls() -> Iterator[RedisTLS]:
    """A server with TLS and a password."""
    from services.redis_variants import RedisTLS

    server = RedisTLS()
    try:
        yield server.start()
    finally:
        server.stop()
