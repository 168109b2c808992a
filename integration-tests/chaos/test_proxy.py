"""The proxy breaks what it says and nothing else. Against a small echo server that counts what reaches it."""

from __future__ import annotations

import socket
import socketserver
import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.proxy import Proxy


class Echo(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        self.seen = b""
        super().__init__(("127.0.0.1", 0), EchoHandler)


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while data := self.request.recv(65_536):
                self.server.seen += data
                self.request.sendall(data)
        except OSError:
            pass


@pytest.fixture
def echo():
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo):
    with Proxy(*echo.server_address) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    opened = []

    def make():
        connection = socket.create_connection((proxy.host, proxy.port), timeout=2)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


def say(connection, data=b"hello"):
    connection.sendall(data)
    return connection.recv(65_536)


def until(condition):
    end = time.monotonic() + 2
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_cut(connection):
    try:
        connection.sendall(b"x")
        return connection.recv(100) == b""
    except (ConnectionError, BrokenPipeError):
        return True


def test_passes_everything_on(connect, proxy):
    connection = connect()
    assert say(connection) == b"hello"
    big = b"z" * 3_000_000
    sender = threading.Thread(target=connection.sendall, args=(big,))
    sender.start()
    got = 0
    while got < len(big):
        got += len(connection.recv(65_536))
    sender.join()
    assert proxy.connections == 1


def test_drop_cuts_all_once(connect, proxy):
    first, second = connect(), connect()
    assert say(first) == say(second) == b"hello"
    assert proxy.drop() == 2
    assert is_cut(first)
    assert is_cut(second)
    assert say(connect()) == b"hello"


def test_refuse_holds_until_healed(connect, proxy):
    first = connect()
    assert say(first) == b"hello"
    assert proxy.refuse() == 1
    assert is_cut(first)
    assert is_cut(connect())
    proxy.heal()
    assert say(connect()) == b"hello"


def test_delay_slows_both_ways(connect, proxy):
    connection = connect()
    proxy.delay(0.1)
    begun = time.monotonic()
    assert say(connection) == b"hello"
    assert time.monotonic() - begun >= 0.2
    proxy.heal()
    begun = time.monotonic()
    assert say(connection) == b"hello"
    assert time.monotonic() - begun < 0.1


def test_stall_passes_nothing_on_and_heal_sends_it_all(connect, proxy, echo):
    connection = connect()
    assert say(connection) == b"hello"
    proxy.stall()
    connection.sendall(b"later")
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(100)
    assert echo.seen == b"hello"
    proxy.heal()
    connection.settimeout(2)
    assert connection.recv(100) == b"later"


def test_swallow_applies_the_request_and_loses_the_reply(connect, proxy, echo):
    connection = connect()
    proxy.swallow()
    connection.sendall(b"applied")
    until(lambda: echo.seen == b"applied")
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(100)
    proxy.heal()
    connection.settimeout(2)
    assert is_cut(connection)
    assert say(connect()) == b"hello"


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_truncate_cuts_after_n_bytes_of_the_replies(connect, proxy, echo, kept):
    connection = connect()
    assert say(connection, b"before") == b"before"
    proxy.truncate(kept)
    connection.sendall(b"hello")
    got = b""
    try:
        while data := connection.recv(100):
            got += data
    except ConnectionError:
        pass
    assert got == b"hello"[:kept]
    assert echo.seen == b"beforehello"
    proxy.heal()
    assert say(connect()) == b"hello"


def test_a_server_that_is_gone_cuts_the_connection(connect, echo):
    echo.shutdown()
    echo.server_close()
    assert is_cut(connect())


def test_close_leaves_no_thread(echo):
    before = threading.active_count()
    with Proxy(*echo.server_address) as proxy:
        socket.create_connection((proxy.host, proxy.port)).close()
    until(lambda: threading.active_count() <= before)


def test_redis_client_survives_a_lost_reply(redis_url):
    with redis.Redis.from_url(redis_url) as direct:
        pool = direct.connection_pool.connection_kwargs
        direct.delete("chaos-proxy:counter")
        with (
            Proxy(pool["host"], pool["port"]) as proxy,
            redis.Redis(
                host=proxy.host,
                port=proxy.port,
                db=pool.get("db", 0),
                password=pool.get("password"),
                socket_timeout=0.3,
                retry=Retry(NoBackoff(), 0),
            ) as client,
        ):
            assert client.incr("chaos-proxy:counter") == 1
            proxy.swallow()
            with pytest.raises(redis.TimeoutError):
                client.incr("chaos-proxy:counter")
            proxy.heal()
            assert client.get("chaos-proxy:counter") == b"2"
        direct.delete("chaos-proxy:counter")
