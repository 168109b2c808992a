"""What a user gets who installs the wheels, without this workspace: only what a package declares is there."""

from __future__ import annotations

import textwrap
import uuid
import zipfile

import pytest

from wheelhouse import Environment, build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CURE = "pip uninstall -y omnidaemon && pip install --force-reinstall --no-deps omnidaemon-core omnidaemon-cli"

ONE_EVENT = """
import asyncio

from omnidaemon import AgentConfig, OmniDaemonSDK


async def greet(message: dict) -> dict:
    return {"greeting": f"hello {message['content']['name']}"}


async def main() -> None:
    sdk = OmniDaemonSDK()
    await sdk.register_agent(agent_config=AgentConfig(name="greeter", topic="greet.requested", callback=greet))
    await sdk.start()
    try:
        event = await sdk.publish("greet.requested", {"name": "world"})
        print(await event.result(agent="greeter", timeout=20))
    finally:
        await sdk.shutdown()


asyncio.run(main())
"""

APP = """
from omnidaemon import OmniDaemonSDK

sdk = OmniDaemonSDK()


@sdk.agent("greet.requested")
def greet(message: dict) -> str:
    return "hello"
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def core_and_redis(tmp_path_factory, wheels):
    environment = Environment.make(tmp_path_factory.mktemp("core-and-redis"))
    environment.install(wheels["omnidaemon-core"], wheels["omnidaemon-redis"])
    return environment


def ours(environment):
    lines = environment.run("python", "-m", "pip", "list", "--format=freeze").stdout.splitlines()
    return {line.partition("==")[0] for line in lines if line.startswith("omnidaemon")}


def test_core_and_one_adapter_run_an_agent(core_and_redis, redis_url, tmp_path):
    assert ours(core_and_redis) == {"omnidaemon-core", "omnidaemon-redis"}
    (tmp_path / "app.py").write_text(ONE_EVENT)
    done = core_and_redis.run(
        "python",
        "app.py",
        cwd=tmp_path,
        EVENT_BUS_TYPE="redis_stream",
        STORAGE_BACKEND="redis",
        REDIS_URL=redis_url,
        OMNIDAEMON_NAMESPACE=f"t{uuid.uuid4().hex[:12]}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'greeting': 'hello world'}"


def test_importing_the_sdk_loads_no_driver_and_no_adapter(core_and_redis):
    code = """
        import sys
        from omnidaemon import AgentConfig, EventEnvelope, OmniDaemonSDK
        print(sorted({"redis", "sqlite3", "omnidaemon_redis"} & sys.modules.keys()))
    """
    done = core_and_redis.run("python", "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_missing_adapter_says_what_to_install(core_and_redis, tmp_path):
    (tmp_path / "app.py").write_text(ONE_EVENT)
    done = core_and_redis.run(
        "python",
        "app.py",
        cwd=tmp_path,
        EVENT_BUS_TYPE="kafka",
        STORAGE_BACKEND="redis",
        KAFKA_SERVERS="localhost:9092",
    )
    assert done.returncode == 1, done.stdout
    assert "pip install omnidaemon-kafka" in done.stderr
    assert "kafka" in done.stderr
    assert "EVENT_BUS_TYPE" in done.stderr


def test_nothing_chosen_and_no_sqlite_is_an_error_that_says_what_to_set(core_and_redis, tmp_path):
    (tmp_path / "app.py").write_text(ONE_EVENT)
    done = core_and_redis.run("python", "app.py", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "EVENT_BUS_TYPE" in done.stderr
    assert not list(tmp_path.glob(".omnidaemon")), "an error leaves nothing behind"


@pytest.fixture(scope="module")
def foreign_wheel(tmp_path_factory):
    """A stand-in for the foreign distribution: it is called omnidaemon and brings a package of that name."""
    path = tmp_path_factory.mktemp("foreign") / "omnidaemon-0.1.1-py3-none-any.whl"
    info = "omnidaemon-0.1.1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("omnidaemon/__init__.py", "class OmniDaemonSDK: ...\n")
        wheel.writestr("omnidaemon/sdk.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: omnidaemon\nVersion: 0.1.1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = ["omnidaemon/__init__.py", "omnidaemon/sdk.py", *(f"{info}/{name}" for name in ("METADATA", "WHEEL"))]
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*names, f"{info}/RECORD"]))
    return path


@pytest.fixture
def standard(tmp_path, wheels):
    environment = Environment.make(tmp_path / "venv")
    names = ("core", "cli", "sqlite", "standard")
    environment.install(*(wheels[f"omnidaemon-{name}"] for name in names))
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "one_event.py").write_text(ONE_EVENT)
    return environment


def test_the_bundle_works_as_it_is(standard, tmp_path):
    done = standard.run("omnidaemon", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = standard.run("python", "one_event.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'greeting': 'hello world'}"


def cure(environment, wheels, tmp_path):
    # The same command that is printed; only where pip looks is given, since these wheels are not published.
    script = tmp_path / "cure.py"
    script.write_text(f"import subprocess; raise SystemExit(subprocess.call({CURE!r}, shell=True))")
    house = next(iter(wheels.values())).parent
    done = environment.run("python", str(script), timeout=120, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(house))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_foreign_omnidaemon_that_took_our_place_is_refused_and_cured(standard, foreign_wheel, wheels, tmp_path):
    standard.install(foreign_wheel, options=("--no-deps", "--no-index"))
    for command in (("doctor",), ("run", "app:sdk")):
        done = standard.run("omnidaemon", *command, cwd=tmp_path)
        assert done.returncode == 1, (command, done.stdout, done.stderr)
        assert CURE in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    cure(standard, wheels, tmp_path)
    done = standard.run("omnidaemon", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = standard.run("python", "one_event.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_foreign_omnidaemon_beneath_ours_stops_a_worker_at_its_start(standard, foreign_wheel, wheels, tmp_path):
    standard.install(foreign_wheel, options=("--no-deps", "--no-index"))
    # Ours again over it: the import works, and the foreign files wait for whoever uninstalls first.
    standard.install(wheels["omnidaemon-core"], options=("--no-deps", "--force-reinstall"))
    done = standard.run("python", "one_event.py", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert CURE in done.stderr
    cure(standard, wheels, tmp_path)
    done = standard.run("python", "one_event.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
