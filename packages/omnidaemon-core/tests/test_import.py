"""Importing does nothing but define names, and is quick (design §2)."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

IMPORT = "from omnidaemon import OmniDaemonSDK, AgentConfig, EventEnvelope"


def python(source: str, *arguments: str, **environ: str) -> str:
    """Run a script in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WATCHED = """
    import json, os, sys, threading, traceback
    import asyncio, importlib.metadata, pydantic, uuid  # what they do is not our doing
    pydantic.field_validator, pydantic.TypeAdapter, pydantic.JsonValue

    class Model(pydantic.BaseModel):  # pydantic looks for its plugins when it builds its first model
        a: int = 1

    seen = []

    def mine():
        return any("/omnidaemon/" in frame.filename for frame in traceback.extract_stack())

    def watch(event, arguments):
        if event == "open":
            path, mode = str(arguments[0]), str(arguments[1])
            code = path.endswith((".py", ".pyc", ".so")) or "__pycache__" in path
            if not code or any(letter in mode for letter in "wax+"):
                seen.append([event, path, mode])
        elif event.startswith(("socket.", "subprocess.", "sqlite3.", "os.mkdir", "os.rename", "os.remove", "shutil.")):
            seen.append([event])
        elif event in ("os.putenv", "os.fork", "_thread.start_new_thread", "signal.pthread_kill"):
            seen.append([event])

    class Spy(type(os.environ)):
        def __getitem__(self, key):
            if mine() and not key.startswith("PYDANTIC_"):  # pydantic asks at each model that it builds
                seen.append(["environ", key])
            return super().__getitem__(key)

        def __iter__(self):
            if mine():
                seen.append(["environ", "all"])
            return super().__iter__()

    os.environ.__class__ = Spy
    modules, threads = set(sys.modules), threading.active_count()
    sys.dont_write_bytecode = True
    sys.addaudithook(watch)
    exec(sys.argv[1])
    loaded = sorted(set(sys.modules) - modules)
    print(json.dumps({"seen": seen, "loaded": loaded, "threads": threading.active_count() - threads}))
"""


def watched(source: str) -> dict:
    script = textwrap.dedent(WATCHED).replace("sys.argv[1]", repr(textwrap.dedent(source)))
    return json.loads(python(script, EVENT_BUS_TYPE="kafka", OMNIDAEMON_GRACE="nonsense"))


@pytest.mark.parametrize(
    "source",
    [
        "from omnidaemon import *",
        IMPORT + "; OmniDaemonSDK(); OmniDaemonSDK('redis_stream', 'redis', grace=5)",
        """
            from omnidaemon import OmniDaemonSDK, AgentConfig, Context
            sdk = OmniDaemonSDK()

            @sdk.agent("t", timeout=5)
            async def work(message, ctx: Context): ...

            sdk.add_agent(AgentConfig(topic="u", callback=print, name="p", config={"dead_letter": False}))
            assert len(sdk.agents) == 2
        """,
    ],
    ids=["everything", "construct", "declare"],
)
def test_it_does_no_io_reads_no_environment_starts_nothing_and_loads_no_driver(source):
    done = watched(source)
    assert done["seen"] == []
    assert done["threads"] == 0
    foreign = {"redis", "hiredis", "sqlite3", "aiokafka", "nats", "asyncpg", "pymongo", "typer", "rich", "dotenv"}
    roots = {name.partition(".")[0] for name in done["loaded"]}
    assert not roots & foreign
    assert not {name for name in roots if name.startswith("omnidaemon_")}


def test_the_watcher_sees_what_it_is_to_see():
    done = watched("""
        import os, threading
        open("/dev/null").close()
        open("/dev/null", "w").close()
        exec(compile("import os; os.environ.get('HOME'); list(os.environ)", "/x/omnidaemon/y.py", "exec"))
        event = threading.Event()
        threading.Thread(target=event.wait, daemon=True).start()
    """)
    assert [entry[0] for entry in done["seen"] if entry[0] != "_thread.start_new_thread"][:2] == ["open", "open"]
    assert ["environ", "HOME"] in done["seen"]
    assert ["environ", "all"] in done["seen"]
    assert done["threads"] == 1


def test_a_publishers_import_loads_no_worker():
    loaded = set(watched(IMPORT)["loaded"])
    late = {"worker", "intake", "settlement", "leases", "relay", "janitor", "execution", "callback", "parameters"}
    assert not {f"omnidaemon.runtime.{name}" for name in late} & loaded
    assert not {"omnidaemon.bootstrap", "omnidaemon.plugins", "omnidaemon.settings", "difflib"} & loaded


def test_importing_configures_no_logging():
    shown = python("""
        import logging
        import omnidaemon
        logger = logging.getLogger("omnidaemon")
        print(logger.level, logger.propagate, len(logging.root.handlers), [type(h).__name__ for h in logger.handlers])
    """)
    assert shown.strip() == "0 True 0 ['NullHandler']"


@pytest.mark.slow
def test_the_import_takes_at_most_1_4_times_what_pydantic_and_asyncio_take():
    base = "import asyncio, pydantic\nclass Model(pydantic.BaseModel):\n    a: int = 1"

    def seconds(source: str) -> float:
        before = os.times()
        python(source)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    pairs = [(seconds(IMPORT), seconds(base)) for _ in range(7)]
    assert min(ours for ours, _ in pairs) <= 1.4 * min(theirs for _, theirs in pairs)
