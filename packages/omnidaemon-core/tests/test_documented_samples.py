"""Every Python sample of the page on agent lifecycles, as its reader would run it.

Left out on purpose (api.md §9): the HTTP API. The samples are kept as they are written there, ``asyncio.run``
included; a reader's loop that runs for ever is ended here by a signal, as Ctrl+C would.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
import textwrap

import pytest

from omnidaemon import AgentConfig, OmniDaemonSDK, SubscriptionConfig

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
DEPRECATED = {"max_retries": 3, "reclaim_idle_ms": 300000, "dlq_enabled": True}


@pytest.fixture(autouse=True)
def backends(monkeypatch, tmp_path):
    """What the reader has configured; a namespace for each test."""
    monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
    monkeypatch.setenv("STORAGE_BACKEND", "memory")
    monkeypatch.setenv("OMNIDAEMON_NAMESPACE", tmp_path.name.replace("_", "-")[-32:].strip("-"))


async def my_agent(message: dict):
    """Your AI agent logic."""
    content = message.get("content", {})
    return {"status": "processed", "content": content}


async def process_file(message: dict):
    """This function is called for each event."""
    # Extract data
    content = message.get("content", {})
    filename = content.get("filename")

    # Your AI agent logic
    result = await ai_process_file(filename)

    # Return result
    return {"status": "success", "processed_file": filename, "result": result}


async def ai_process_file(filename):
    return filename.upper()


async def process_image(message: dict):
    return message["topic"]


async def analyze_data(message: dict):
    return message["agent"]


def test_simple_registration():
    sdk = OmniDaemonSDK()

    async def main():
        # Register agent - REQUIRED: topic and callback
        await sdk.register_agent(
            agent_config=AgentConfig(
                topic="file.uploaded",
                callback=my_agent,
            )
        )

        await sdk.start()

        event = await sdk.publish("file.uploaded", {"a": 1})
        assert await event.result(timeout=1) == {"status": "processed", "content": {"a": 1}}
        asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
        try:
            while True:  # noqa: ASYNC110 - as it is written there
                await asyncio.sleep(1)
        except KeyboardInterrupt:
            pass
        finally:
            await sdk.shutdown()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert not sdk.running


def test_what_happens_during_registration(run):
    sdk = OmniDaemonSDK()

    async def main():
        await sdk.register_agent(agent_config=AgentConfig(topic="file.uploaded", callback=my_agent))
        await sdk.start()
        agent = await sdk.get_agent("file.uploaded", "my_agent")
        assert agent["name"] == "my_agent"
        assert agent["topic"] == "file.uploaded"
        assert agent["version"] == "1.0.0"
        assert agent["registered_at"] > 0
        assert agent["config"]["retry"]["max_attempts"] == 4
        assert agent["config"]["dead_letter"] is True
        (group,) = await sdk.list_groups("file.uploaded")
        assert group["name"] == "my_agent"
        assert (await sdk.health())["uptime_seconds"] >= 0
        await sdk.shutdown()

    run(main())


def test_registration_options(run):
    sdk = OmniDaemonSDK()

    async def main():
        with pytest.warns(DeprecationWarning, match="deprecated: use|ignored") as warned:
            await sdk.register_agent(
                agent_config=AgentConfig(
                    # REQUIRED
                    topic="file.uploaded",  # Topic to listen to
                    callback=my_agent,  # Function to call
                    # OPTIONAL
                    name="file-processor",  # Default: auto-generated from topic
                    description="Processes uploads",  # Default: None
                    version="1.0.0",  # Default: "1.0.0"
                    tags=["file", "upload"],  # Default: []
                    # SUBSCRIPTION CONFIG (Optional)
                    config=SubscriptionConfig(
                        max_retries=3,  # Default: 3
                        reclaim_idle_ms=300000,  # Default: 300000 (5 min)
                        dlq_enabled=True,  # Default: True
                    ),
                )
            )
        assert {warning.filename for warning in warned} == {__file__}
        texts = [str(warning.message) for warning in warned]
        assert texts == [
            "max_retries=3 is deprecated: use retry=RetryPolicy(max_attempts=4)",
            "dlq_enabled=True is deprecated: use dead_letter=True",
            "reclaim_idle_ms is ignored: a lease is renewed while the agent runs, see SubscriptionConfig(lease=)",
        ]
        (config,) = sdk.agents
        assert config.config.retry.max_attempts == 4
        assert config.config.dead_letter is True
        await sdk.start()
        agent = await sdk.get_agent("file.uploaded", "file-processor")
        assert (agent["description"], agent["tags"]) == ("Processes uploads", ["file", "upload"])
        await sdk.shutdown()

    run(main())


def test_multiple_agents(run):
    sdk = OmniDaemonSDK()

    async def main():
        await sdk.register_agent(agent_config=AgentConfig(topic="file.uploaded", callback=process_file))
        await sdk.register_agent(agent_config=AgentConfig(topic="image.uploaded", callback=process_image))
        await sdk.register_agent(agent_config=AgentConfig(topic="analysis.requested", callback=analyze_data))

        await sdk.start()  # All agents start listening

        for topic, value in (
            ("file.uploaded", {"status": "success", "processed_file": "a", "result": "A"}),
            ("image.uploaded", "image.uploaded"),
            ("analysis.requested", "analyze_data"),
        ):
            event = await sdk.publish(topic, {"filename": "a"})
            assert await event.result(timeout=1) == value
        await sdk.shutdown()

    run(main())


def test_pausing_and_restarting(run):
    async def main():
        sdk = OmniDaemonSDK()
        config = AgentConfig(topic="file.uploaded", callback=process_file, name="file-processor")
        await sdk.register_agent(agent_config=config)
        await sdk.start()
        await sdk.unsubscribe_agent(topic="file.uploaded", agent_name="file-processor")
        agent = await sdk.get_agent(topic="file.uploaded", agent_name="file-processor")
        assert agent["state"] == "paused"
        await asyncio.sleep(0.1)
        event = await sdk.publish("file.uploaded", {"filename": "a"})
        assert len(await sdk.list_groups("file.uploaded")) == 1
        await sdk.shutdown()
        # On purpose (api.md §9) a restart alone does not end the pause.
        await sdk.start()
        await asyncio.sleep(0.05)
        assert await sdk.get_task(event.id) is None
        await sdk.resume_agent(topic="file.uploaded", agent_name="file-processor")
        assert (await event.result(timeout=1))["result"] == "A"
        await sdk.shutdown()

    run(main())


@pytest.mark.parametrize("complete", [False, True])
def test_deletion(run, complete):
    async def main():
        sdk = OmniDaemonSDK()
        config = AgentConfig(topic="file.uploaded", callback=process_file, name="file-processor")
        await sdk.register_agent(agent_config=config)
        await sdk.start()
        if complete:
            await sdk.delete_agent(
                topic="file.uploaded",
                agent_name="file-processor",
                delete_group=True,  # Delete consumer group
                delete_dlq=True,  # Delete DLQ
            )
        else:
            await sdk.delete_agent(
                topic="file.uploaded",
                agent_name="file-processor",
                delete_group=False,  # Keep consumer group
                delete_dlq=False,  # Keep DLQ
            )
        assert await sdk.get_agent("file.uploaded", "file-processor") is None
        assert len(await sdk.list_groups("file.uploaded")) == (0 if complete else 1)
        await sdk.shutdown()

    run(main())


def test_delete_entire_topic(run):
    async def main():
        sdk = OmniDaemonSDK()
        for name in ("a", "b"):
            await sdk.register_agent(AgentConfig(topic="file.uploaded", callback=process_file, name=name))
        await sdk.start()
        gone = await sdk.delete_topic(topic="file.uploaded")
        assert gone.agents == 2
        assert await sdk.list_agents() == {}
        await sdk.shutdown()

    run(main())


def test_handling_signals(run):
    sdk = OmniDaemonSDK()
    tasks = []

    def signal_handler(sig, frame):  # noqa: ARG001 - as it is written there
        tasks.append(asyncio.create_task(sdk.shutdown()))

    async def main():
        await sdk.register_agent(AgentConfig(topic="file.uploaded", callback=process_file))
        await sdk.start()
        signal.signal(signal.SIGINT, signal_handler)
        signal.signal(signal.SIGTERM, signal_handler)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(sdk.wait_stopped(), 2)
        await asyncio.gather(*tasks)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        run(main())
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert not sdk.running


@pytest.mark.parametrize(("environment", "topic"), [("production", "billing.process"), ("development", "test.events")])
def test_conditional_registration(run, monkeypatch, environment, topic):
    monkeypatch.setenv("ENV", environment)
    process_billing = debug_handler = my_agent

    async def main():
        sdk = OmniDaemonSDK()
        # Only register in production
        if os.getenv("ENV") == "production":
            await sdk.register_agent(
                agent_config=AgentConfig(
                    topic="billing.process",
                    callback=process_billing,
                )
            )

        # Only in development
        if os.getenv("ENV") == "development":
            await sdk.register_agent(
                agent_config=AgentConfig(
                    topic="test.events",
                    callback=debug_handler,
                )
            )
        assert [config.topic for config in sdk.agents] == [topic]

    run(main())


def test_dynamic_registration(run, tmp_path, monkeypatch):
    (tmp_path / "my_callbacks.py").write_text(
        textwrap.dedent("""
            async def handle(message: dict):
                return message["agent"]
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = {"topic": "file.uploaded", "callback_module": "my_callbacks", "name": "from-file"}
    (tmp_path / "agents.yaml").write_text(json.dumps({"agents": [entry]}))

    def import_callback(module):
        return importlib.import_module(module).handle

    async def main():
        sdk = OmniDaemonSDK()
        # Load agent config from file (JSON is YAML, and needs no library here)
        agents_config = json.loads((tmp_path / "agents.yaml").read_text())

        # Register each agent
        for agent in agents_config["agents"]:
            callback = import_callback(agent["callback_module"])

            await sdk.register_agent(
                agent_config=AgentConfig(
                    topic=agent["topic"],
                    callback=callback,
                    name=agent["name"],
                )
            )
        await sdk.start()
        assert await (await sdk.publish("file.uploaded", 1)).result(timeout=1) == "from-file"
        await sdk.shutdown()

    run(main())
    sys.modules.pop("my_callbacks", None)


def test_descriptive_names_and_versions(run):
    async def main():
        sdk = OmniDaemonSDK()
        await sdk.register_agent(
            agent_config=AgentConfig(
                topic="file.uploaded",
                callback=process_file,
                name="file-processor-v2",
                description="Extracts text from uploaded files",
            )
        )
        await sdk.register_agent(
            agent_config=AgentConfig(
                topic="file.uploaded",
                callback=process_file,
                name="file-processor",
                version="2.1.0",  # Track versions!
            )
        )
        assert [(config.name, config.version) for config in sdk.agents] == [
            ("file-processor-v2", "1.0.0"),
            ("file-processor", "2.1.0"),
        ]

    run(main())


def test_monitor_agent_health(run):
    seen = []

    async def main():
        sdk = OmniDaemonSDK()

        # Periodic health check
        async def monitor_health():
            while True:
                health = await sdk.health()
                seen.append(health["status"])
                await asyncio.sleep(0.01)

        # Run in background
        task = asyncio.create_task(monitor_health())
        await asyncio.sleep(0.02)
        await sdk.register_agent(AgentConfig(topic="file.uploaded", callback=process_file))
        await sdk.start()
        await asyncio.sleep(0.05)
        await sdk.stop()
        await asyncio.sleep(0.03)
        task.cancel()
        await sdk.shutdown()

    run(main())
    assert seen[0] == "ready"
    assert "running" in seen
    assert seen[-1] == "stopped"


@pytest.mark.parametrize(("name", "value"), DEPRECATED.items())
def test_each_deprecated_name_warns_and_works(name, value):
    with pytest.warns(DeprecationWarning, match=name) as warned:
        config = SubscriptionConfig(**{name: value})
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert config == SubscriptionConfig()
