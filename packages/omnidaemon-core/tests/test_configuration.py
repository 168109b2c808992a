"""Choosing backends, settings, and every way to get them wrong (api.md §5-§7, design §2)."""

import asyncio
import importlib
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pytest

import omnidaemon
from omnidaemon import (
    AgentConfig,
    BackendConflict,
    BackendImportError,
    BackendIncompatible,
    BackendNotInstalled,
    ConfigurationError,
    ForeignPackage,
    OmniDaemonSDK,
    RetryPolicy,
    StoreTooNarrow,
    SubscriptionConfig,
    UnknownBackend,
)
from omnidaemon.settings import Settings
from omnidaemon_memory import MemoryEventBus, MemoryStore


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with entry points and a module on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def install_(name, version="1.0", points=None, source=""):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"[{group}]\n{entry} = {value}\n" for group, entry, value in points or []]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        modules.append(module)

    yield install_
    for module in modules:
        sys.modules.pop(module, None)


BUSES, STORES = "omnidaemon.event_buses", "omnidaemon.stores"


class TestChoosing:
    """Which bus and which store (api.md §6)."""

    def test_by_name_and_by_variable(self, monkeypatch):
        chosen = OmniDaemonSDK("memory", "memory").choose()
        assert isinstance(chosen.bus, MemoryEventBus)
        assert isinstance(chosen.store, MemoryStore)
        assert chosen.why == {"event_bus": "memory (event_bus=memory)", "store": "memory (store=memory)"}
        monkeypatch.setenv("EVENT_BUS_TYPE", " Memory ")
        monkeypatch.setenv("STORAGE_BACKEND", "memory")
        chosen = OmniDaemonSDK().choose()
        assert chosen.why == {"event_bus": "memory (EVENT_BUS_TYPE=Memory)", "store": "memory (STORAGE_BACKEND=memory)"}

    def test_an_argument_wins_over_a_variable(self, monkeypatch):
        monkeypatch.setenv("EVENT_BUS_TYPE", "kafka")
        monkeypatch.setenv("STORAGE_BACKEND", "mongo")
        assert OmniDaemonSDK("memory", "memory").choose().bus.capabilities.name == "memory"

    def test_instances_are_used_through_twins_of_the_same_data(self, bus, store, run):
        sdk = OmniDaemonSDK(event_bus=bus, store=store)

        async def main():
            async with sdk:
                await sdk.publish("t", 1)
                assert sdk.store.data is store.data
                assert sdk.event_bus.broker is bus.broker

        run(main())

    def test_neither_set_means_sqlite_for_both(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        for name in ("EVENT_BUS_TYPE", "STORAGE_BACKEND"):
            monkeypatch.setenv(name, "")
        chosen = OmniDaemonSDK().choose()
        assert chosen.bus.capabilities.name == chosen.store.capabilities.name == "sqlite"
        assert chosen.why["store"] == "sqlite (default, as neither EVENT_BUS_TYPE nor STORAGE_BACKEND is set)"
        assert list(tmp_path.iterdir()) == []  # choosing does no I/O

    @pytest.mark.parametrize(
        ("variable", "value", "bus", "store"),
        [
            ("EVENT_BUS_TYPE", "memory", "memory", "memory"),
            ("STORAGE_BACKEND", "memory", "memory", "memory"),
            ("EVENT_BUS_TYPE", "redis_stream", "redis_stream", "redis"),
            ("EVENT_BUS_TYPE", "redis-stream", "redis_stream", "redis"),
            ("EVENT_BUS_TYPE", "redis", "redis_stream", "redis"),
            ("STORAGE_BACKEND", "redis", "redis_stream", "redis"),
            ("EVENT_BUS_TYPE", "redis://example.com:1/2", "redis_stream", "redis"),
            ("STORAGE_BACKEND", "rediss://example.com", "redis_stream", "redis"),
        ],
    )
    def test_one_set_means_the_same_technology(self, monkeypatch, variable, value, bus, store):
        monkeypatch.setenv(variable, value)
        chosen = OmniDaemonSDK().choose()
        assert (chosen.bus.capabilities.name, chosen.store.capabilities.name) == (bus, store)
        other = "store" if variable == "EVENT_BUS_TYPE" else "event_bus"
        assert chosen.why[other].endswith(f"(same technology as {variable}={value})")
        if "://" in value:
            assert "example.com" in chosen.bus.location
            assert "example.com" in chosen.store.location

    @pytest.mark.parametrize(
        ("bus", "store", "error", "says"),
        [
            # The port that is set is resolved first: its error is the one to mend.
            ("kafka", None, BackendNotInstalled, "event_bus=kafka asks for .* run: pip install omnidaemon-kafka"),
            (None, "postgresql", BackendNotInstalled, "store=postgresql asks .* run: pip install omnidaemon-postgres"),
            (None, "json", BackendNotInstalled, "store=json asks .* run: pip install omnidaemon-json"),
            ("memory", "json", BackendNotInstalled, "store=json"),
            ("nonsense", None, UnknownBackend, "event_bus=nonsense asks for the unknown event bus 'nonsense'"),
            ("memori", None, UnknownBackend, "Did you mean 'memory'"),
            ("postgres", None, UnknownBackend, "It is a store, set it there"),
            ("memory", "kafka", UnknownBackend, "It is an event bus, set it there"),
            ("http://x", None, ConfigurationError, "event_bus=http://x: the URL scheme 'http' belongs to no backend"),
            ("memory", "ftp://u:p@x", ConfigurationError, r"store=ftp://\*\*\*@x: the URL scheme 'ftp' belongs"),
            ("", "memory", UnknownBackend, "event_bus= asks for the unknown event bus ''"),
            (5, None, BackendIncompatible, "event_bus=5 is no event bus: it lacks open, close"),
            ("memory", object(), BackendIncompatible, "store=<object.*> is no store: it lacks open"),
            (MemoryStore(), None, BackendIncompatible, "event_bus=MemoryStore.* is no event bus: it lacks ensure"),
            (MemoryEventBus, None, BackendIncompatible, "is a class; give an instance, a name or a URL"),
        ],
    )
    def test_what_cannot_be_chosen_says_which_value_and_what_to_do(self, bus, store, error, says):
        sdk = OmniDaemonSDK(bus, store)
        with pytest.raises(error, match=says) as caught:
            sdk.choose()
        assert isinstance(caught.value, ConfigurationError)
        for call in (sdk.start(), sdk.publish("t", 1), sdk.health(), sdk.__aenter__()):
            with pytest.raises(error):
                asyncio.run(call)

    def test_unknown_names_list_what_is_installed(self):
        with pytest.raises(UnknownBackend, match=r"Installed: memory, redis, redis_stream, sqlite"):
            OmniDaemonSDK("nonsense").choose()

    def test_no_partner_prints_the_line_to_add(self, install, monkeypatch):
        source = "from omnidaemon_memory import MemoryEventBus as Bus"
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus")], source=source)
        monkeypatch.setenv("EVENT_BUS_TYPE", "acme")
        with pytest.raises(ConfigurationError) as caught:
            OmniDaemonSDK().choose()
        assert str(caught.value) == (
            "EVENT_BUS_TYPE=acme is set and STORAGE_BACKEND is not, and no store of the same technology is installed"
            " (installed: memory, redis, sqlite); add a line such as: export STORAGE_BACKEND=redis"
        )

    def test_third_parties_may_bring_both_ports_and_a_scheme(self, install, monkeypatch):
        source = """
            from omnidaemon_memory import MemoryEventBus, MemoryStore
            seen = []
            class Bus(MemoryEventBus):
                @classmethod
                def from_settings(cls, settings):
                    seen.append(settings["url"])
                    return super().from_settings(settings)
            class Store(MemoryStore):
                pass
        """
        install("acme", points=[(BUSES, "acme", "acme:Bus"), (STORES, "acme", "acme:Store")], source=source)
        for value, url in (("acme", None), ("ACME://somewhere/x", "ACME://somewhere/x")):
            monkeypatch.setenv("EVENT_BUS_TYPE", value)
            chosen = OmniDaemonSDK().choose()
            assert type(chosen.bus).__module__ == type(chosen.store).__module__ == "acme"
            assert sys.modules["acme"].seen[-1] == url

    @pytest.mark.parametrize("url", ["http://localhost:6379", "nats://localhost", "postgres://h"])
    def test_the_url_of_something_else(self, monkeypatch, url):
        monkeypatch.setenv("EVENT_BUS_TYPE", "redis_stream")
        monkeypatch.setenv("REDIS_URL", url)
        head = url.partition("://")[0]
        says = rf"REDIS_URL={url} has the scheme '{head}'; 'redis_stream' takes redis, redis\+cluster, .*rediss"
        with pytest.raises(ConfigurationError, match=says):
            OmniDaemonSDK().choose()

    def test_no_secret_is_shown(self, monkeypatch):
        secret = "redis://user:s3cret@example.com:6379/0?password=s3cret"
        monkeypatch.setenv("EVENT_BUS_TYPE", secret)
        chosen = OmniDaemonSDK().choose()
        shown = [*chosen.why.values(), repr(chosen.bus), repr(chosen.store), chosen.bus.location, chosen.store.location]
        monkeypatch.setenv("EVENT_BUS_TYPE", secret.replace("redis:", "radish:"))
        with pytest.raises(ConfigurationError) as caught:
            OmniDaemonSDK().choose()
        monkeypatch.setenv("EVENT_BUS_TYPE", "redis")
        monkeypatch.setenv("REDIS_URL", secret.replace("redis:", "radish:"))
        with pytest.raises(ConfigurationError) as other:
            OmniDaemonSDK().choose()
        assert not [text for text in (*shown, str(caught.value), str(other.value)) if "s3cret" in text]


class TestPlugins:
    """Five different messages for what can be wrong with an adapter (design §2)."""

    def test_its_import_fails(self, install):
        install("acme-bus", "1.2", [(BUSES, "acme", "acme_bus:Bus")], "import no_such_driver")
        says = (
            r"the event bus 'acme' of acme-bus 1.2 cannot be imported \(ModuleNotFoundError: No module named"
            r" 'no_such_driver'\); reinstall it: pip install --force-reinstall acme-bus"
        )
        with pytest.raises(BackendImportError, match=says) as caught:
            OmniDaemonSDK("acme", "memory").choose()
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    def test_its_import_raises_anything(self, install):
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus")], source="1 / 0")
        with pytest.raises(BackendImportError, match="ZeroDivisionError"):
            OmniDaemonSDK("acme", "memory").choose()

    def test_its_name_is_not_in_its_module(self, install):
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus")])
        with pytest.raises(BackendImportError, match=r"AttributeError: .*'Bus'"):
            OmniDaemonSDK("acme", "memory").choose()

    def test_two_packages_claim_one_name(self, install):
        for name in ("acme-one", "acme-two"):
            install(name, points=[(BUSES, "acme", f"{name.replace('-', '_')}:Bus")])
        says = "event_bus=acme: the event bus 'acme' is claimed by acme-one 1.0, acme-two 1.0; uninstall all but one"
        with pytest.raises(BackendConflict, match=says):
            OmniDaemonSDK("acme", "memory").choose()

    def test_it_is_not_a_bus(self, install):
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus")], source="class Bus:\n    def open(self): ...")
        with pytest.raises(
            BackendIncompatible, match=r"the event bus 'acme' of acme-bus 1.0 is no event bus: it lacks close"
        ):
            OmniDaemonSDK("acme", "memory").choose()

    @pytest.mark.parametrize(
        ("version", "upgrade"), [(0, "acme-bus"), (None, "acme-bus"), (99, "omnidaemon-core"), ("1", "acme-bus")]
    )
    def test_it_was_written_for_another_port_version(self, install, version, upgrade):
        source = f"""
            from omnidaemon_memory import MemoryEventBus
            class Bus(MemoryEventBus):
                port_version = {version!r}
        """
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus")], source=source)
        says = rf"acme-bus 1.0 was written for port version {version}, this is 1; run: pip install -U {upgrade}$"
        with pytest.raises(BackendIncompatible, match=says):
            OmniDaemonSDK("acme", "memory").choose()

    def test_only_the_chosen_one_is_loaded(self, install):
        install("acme-bus", points=[(BUSES, "acme", "acme_bus:Bus"), (STORES, "acme", "acme_bus:Bus")], source="1 / 0")
        OmniDaemonSDK("memory", "memory").choose()
        assert "acme_bus" not in sys.modules

    @pytest.mark.parametrize("version", ["0.1.1", "0.1", "0.0.9.dev1"])
    def test_the_foreign_distribution_is_refused_with_the_cure(self, install, version, run):
        install("omnidaemon", version)
        sys.modules["omnidaemon"] = omnidaemon
        sdk = OmniDaemonSDK("memory", "memory")
        says = (
            f"the foreign distribution 'omnidaemon' {version} is installed .*; run: pip uninstall -y omnidaemon &&"
            " pip install --force-reinstall --no-deps omnidaemon-core omnidaemon-cli"
        )
        for call in (sdk.start, lambda: sdk.publish("t", 1), sdk.health):
            with pytest.raises(ForeignPackage, match=says):
                run(call())
        sys.modules["omnidaemon"] = omnidaemon

    def test_plugins_are_called_once_before_the_first_start(self, install, serve, run):
        source = """
            async def noted(message):
                return message["content"]

            def plug(sdk):
                sdk.agent("plugged")(noted)
        """
        install("acme-plugin", points=[("omnidaemon.plugins", "acme", "acme_plugin:plug")], source=source)
        sdk = OmniDaemonSDK(MemoryEventBus(), MemoryStore())

        async def main():
            await (await sdk.publish("plugged", 1)).task("noted").info()
            assert sdk.agents == []
            for number in range(2):
                async with serve(sdk):
                    assert await (await sdk.publish("plugged", number)).result(timeout=1) == number
            assert len(sdk.agents) == 1

        run(main())


class TestScope:
    """A store narrower than its bus (S11)."""

    @staticmethod
    def bus(reach):
        class Bus(MemoryEventBus):
            @property
            def scope(self):
                return reach

            @property
            def location(self):
                return "bus.example.com"

        return Bus()

    @pytest.mark.parametrize("scope", ["machine", "network"])
    def test_it_is_refused_at_start_and_says_why(self, run, scope):
        sdk = OmniDaemonSDK(self.bus(scope), MemoryStore())
        says = (
            rf"the event bus 'memory' at bus.example.com is reachable from a whole {scope}, the store 'memory' at"
            r" memory of this process only from one process: .* OMNIDAEMON_ALLOW_LOCAL_STORE=1"
        )
        for call in (sdk.start, lambda: sdk.publish("t", 1)):
            with pytest.raises(StoreTooNarrow, match=says):
                run(call())
        assert OmniDaemonSDK(self.bus("process"), MemoryStore()).choose()

    def test_it_may_be_allowed(self, monkeypatch):
        assert OmniDaemonSDK(self.bus("network"), MemoryStore(), allow_local_store=True).choose()
        for value in ("1", "true"):
            monkeypatch.setenv("OMNIDAEMON_ALLOW_LOCAL_STORE", value)
            assert OmniDaemonSDK(self.bus("network"), MemoryStore()).choose()
            with pytest.raises(StoreTooNarrow):
                OmniDaemonSDK(self.bus("network"), MemoryStore(), allow_local_store=False).choose()

    def test_a_bus_that_holds_less_than_the_limit_is_refused(self):
        small = MemoryEventBus(max_event_bytes=10_000)
        with pytest.raises(
            ConfigurationError, match=r"max_event_bytes=524288 is more than the event bus 'memory' holds"
        ):
            OmniDaemonSDK(small, MemoryStore()).choose()
        assert OmniDaemonSDK(small, MemoryStore(), max_event_bytes=10_000).choose()


VALUES = {
    "namespace": ("prod-1", "prod-1", None),
    "result_ttl": ("60", 60.0, "soon"),
    "retention": ("3600.5", 3600.5, "-1"),
    "dedup_window": ("0", 0.0, "nan"),
    "adopt_after": ("1e1", 10.0, "inf"),
    "max_event_bytes": ("2048", 2048, "1.5"),
    "max_hops": ("0", 0, "-1"),
    "topic_max_bytes": ("4096", 4096, "12"),
    "grace": ("5", 5.0, "5s"),
    "connect_timeout": ("2", 2.0, "x"),
    "publish_timeout": ("2", 2.0, "None"),
    "orphan_after": ("1", 1.0, "1,5"),
    "max_dead_letters": ("5", 5, "many"),
    "metrics_ttl": ("5", 5.0, "[]"),
    "allow_local_store": ("yes", True, "maybe"),
}


class TestSettings:
    """One model, its variables, and their precedence."""

    def test_every_field_is_tried_here(self):
        assert set(VALUES) == set(Settings.model_fields)

    def test_defaults(self):
        settings = OmniDaemonSDK("memory", "memory").settings
        assert settings == Settings()
        assert settings.namespace == "omni"
        assert settings.result_ttl == settings.dedup_window == timedelta(hours=24).total_seconds()
        assert settings.retention == settings.orphan_after == timedelta(days=7).total_seconds()
        assert (settings.adopt_after, settings.max_event_bytes, settings.max_hops) == (10, 512 * 1024, 32)
        assert (settings.grace, settings.connect_timeout, settings.topic_max_bytes) == (30, None, None)
        assert settings.max_dead_letters == 10_000

    @pytest.mark.parametrize("name", VALUES)
    def test_a_variable_for_each_and_the_constructor_wins(self, monkeypatch, name):
        text, value, _ = VALUES[name]
        monkeypatch.setenv(f"OMNIDAEMON_{name.upper()}", f" {text} ")
        assert getattr(OmniDaemonSDK("memory", "memory").settings, name) == value
        given = getattr(OmniDaemonSDK("memory", "memory", **{name: Settings.model_fields[name].default}).settings, name)
        assert given == Settings.model_fields[name].default
        monkeypatch.setenv(f"OMNIDAEMON_{name.upper()}", "")
        assert getattr(OmniDaemonSDK("memory", "memory").settings, name) == Settings.model_fields[name].default

    @pytest.mark.parametrize("name", [name for name, (_, _, bad) in VALUES.items() if bad])
    def test_a_variable_of_the_wrong_type_is_named_with_its_value(self, monkeypatch, name):
        bad = VALUES[name][2]
        variable = f"OMNIDAEMON_{name.upper()}"
        monkeypatch.setenv(variable, bad)
        sdk = OmniDaemonSDK("memory", "memory")
        with pytest.raises(
            ConfigurationError, match=rf"^{variable} has the value '{bad}': Input should".replace("[]", r"\[\]")
        ):
            sdk.choose()
        with pytest.raises(ConfigurationError, match=f"^{name}= has the value "):
            OmniDaemonSDK("memory", "memory", **{name: object()})

    def test_durations_may_be_timedeltas(self):
        sdk = OmniDaemonSDK("memory", "memory", result_ttl=timedelta(hours=1), grace=timedelta(seconds=2.5))
        assert (sdk.settings.result_ttl, sdk.settings.grace) == (3600, 2.5)

    def test_an_unknown_setting_is_an_error_at_the_call(self):
        with pytest.raises(ConfigurationError, match="there is no setting 'resultttl'; did you mean result_ttl="):
            OmniDaemonSDK(resultttl=5)
        with pytest.raises(ConfigurationError, match="there is no setting 'xyz'; known: namespace, result_ttl"):
            OmniDaemonSDK(xyz=5)

    def test_an_unknown_variable_is_warned_about_with_the_nearest_known_one(self, monkeypatch, caplog):
        monkeypatch.setenv("OMNIDAEMON_RESULTS_TTL", "5")
        monkeypatch.setenv("OMNIDAEMON_ZZZ", "5")
        monkeypatch.setenv("OMNIDAEMON_TEST_ANYTHING", "5")
        sdk = OmniDaemonSDK("memory", "memory")
        sdk.choose()
        sdk.choose()
        assert sorted(record.getMessage() for record in caplog.records) == [
            "unknown variable OMNIDAEMON_RESULTS_TTL is ignored; did you mean OMNIDAEMON_RESULT_TTL?",
            "unknown variable OMNIDAEMON_ZZZ is ignored",
        ]

    @pytest.mark.parametrize("name", ["a b", "a:b", "x" * 33, ".a", "ü"])
    def test_an_invalid_namespace(self, monkeypatch, name):
        with pytest.raises(ConfigurationError, match=r"invalid namespace .* use 1 to 32 of .*OMNIDAEMON_NAMESPACE"):
            OmniDaemonSDK("memory", "memory", namespace=name).choose()
        monkeypatch.setenv("OMNIDAEMON_NAMESPACE", name)
        with pytest.raises(ConfigurationError, match=r"invalid namespace"):
            OmniDaemonSDK("memory", "memory").choose()

    def test_the_old_name_of_the_namespace_counts_on_redis_only(self, monkeypatch):
        monkeypatch.setenv("REDIS_KEY_PREFIX", "old")
        assert OmniDaemonSDK("memory", "memory").settings.namespace == "omni"
        assert OmniDaemonSDK("redis_stream", "redis").settings.namespace == "old"
        assert OmniDaemonSDK("redis://h").settings.namespace == "old"
        assert OmniDaemonSDK("redis", namespace="mine").settings.namespace == "mine"
        monkeypatch.setenv("OMNIDAEMON_NAMESPACE", "new")
        assert OmniDaemonSDK("redis").settings.namespace == "new"
        monkeypatch.delenv("OMNIDAEMON_NAMESPACE")
        monkeypatch.setenv("REDIS_KEY_PREFIX", "a b")
        with pytest.raises(ConfigurationError, match=r"invalid namespace 'a b'.*REDIS_KEY_PREFIX"):
            OmniDaemonSDK("redis").choose()

    def test_a_dotenv_file_is_not_read(self, monkeypatch, tmp_path):
        (tmp_path / ".env").write_text("EVENT_BUS_TYPE=kafka\nOMNIDAEMON_GRACE=1\n")
        monkeypatch.chdir(tmp_path)
        assert OmniDaemonSDK("memory", "memory").settings.grace == 30

    def test_the_environment_is_read_at_first_use(self, monkeypatch):
        sdk = OmniDaemonSDK()
        monkeypatch.setenv("EVENT_BUS_TYPE", "memory")
        monkeypatch.setenv("OMNIDAEMON_GRACE", "1")
        assert sdk.settings.grace == 1
        monkeypatch.setenv("OMNIDAEMON_GRACE", "2")
        assert sdk.settings.grace == 1


async def work(message):
    return message


class TestAgentConfig:
    """What users declare about an agent (api.md §5)."""

    def test_defaults(self):
        config = AgentConfig(topic="t", callback=work)
        assert (config.name, config.version, config.description, config.tags, config.tools) == (
            "work",
            "1.0.0",
            "",
            (),
            (),
        )
        subscription = config.config
        assert (subscription.max_concurrency, subscription.timeout, subscription.lease) == (10, None, 15)
        assert (subscription.start_from, subscription.dead_letter, subscription.dead_letter_topic) == (None, True, None)
        retry = subscription.retry
        assert (retry.max_attempts, retry.initial, retry.factor, retry.max, retry.jitter) == (4, 1, 2, 300, "full")

    def test_what_may_be_left_empty(self):
        config = AgentConfig(topic="t", callback=work, name=None, description=None, tools=None, tags=None)
        assert (config.name, config.description, config.tools, config.tags) == ("work", "", (), ())

    def test_it_is_frozen(self):
        with pytest.raises(ValueError, match="frozen"):
            AgentConfig(topic="t", callback=work).topic = "u"

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"topic": "a b"}, "invalid topic 'a b': use 1 to 100 of"),
            ({"topic": ""}, "invalid topic ''"),
            ({"topic": None}, r"AgentConfig\(topic=None\): Input should be a valid string"),
            ({"topic": "x" * 101}, "invalid topic"),
            ({"name": "a:b"}, "invalid agent name 'a:b': use 1 to 64 of"),
            ({"name": "x" * 65}, "invalid agent name"),
            ({"name": "my agent"}, "invalid agent name"),
            ({"name": 5}, r"AgentConfig\(name=5\): Input should be a valid string"),
            ({"callback": 5}, r"AgentConfig\(callback=5\): Input should be callable"),
            ({"callback": None}, "give either callback= or agent="),
            ({"agent": object()}, "give either callback= or agent="),
            ({"isolation": "process"}, r"AgentConfig\(isolation='process'\): Input should be 'inline' or 'thread'"),
            ({"config": {"timeout": -1}}, r"timeout=-1\): Input should be greater than"),
            ({"config": 5}, r"AgentConfig\(config=5\)"),
            ({"colour": "blue"}, r"AgentConfig\(colour='blue'\): Extra inputs are not permitted"),
            ({"tags": "abc"}, r"AgentConfig\(tags='abc'\)"),
            ({"tools": [5]}, r"AgentConfig\(tools.0=5\)"),
        ],
    )
    def test_what_an_agent_cannot_be(self, fields, says):
        with pytest.raises(ConfigurationError, match=says):
            AgentConfig(**{"topic": "t", "callback": work, **fields})

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"max_concurrency": 0}, r"max_concurrency=0\): Input should be greater than or equal to 1"),
            ({"max_concurrency": -1}, "max_concurrency=-1"),
            ({"max_concurrency": 1.5}, "max_concurrency=1.5"),
            ({"max_concurrency": "many"}, "max_concurrency='many'"),
            ({"timeout": 0}, r"timeout=0\): Input should be greater than 0"),
            ({"timeout": -5}, "timeout=-5"),
            ({"timeout": float("inf")}, "timeout=inf"),
            ({"lease": 0}, "lease=0"),
            ({"lease": timedelta(seconds=-1)}, "lease="),
            ({"start_from": 5}, r"start_from=5\): .*'beginning', 'now', a datetime or a position"),
            ({"start_from": ""}, r"start_from=''\)"),
            ({"dead_letter": "perhaps"}, "dead_letter='perhaps'"),
            ({"dead_letter_topic": "a b"}, "invalid topic 'a b'"),
            ({"dead_letter_topic": "omnidaemon.x"}, "reserved"),
            ({"retry": 5}, "retry=5"),
            ({"retry": {"max_attempts": 0}}, "max_attempts=0"),
            ({"group_name": "g"}, r"group_name=\.\.\.\) is gone: the group is named by AgentConfig\(name=\.\.\.\)"),
            ({"max_retry": 3}, r"max_retry=3\): Extra inputs are not permitted"),
            ({"max_retries": -1}, "max_retries must be an integer >= 0, got -1"),
            ({"max_retries": "3"}, "max_retries must be an integer >= 0, got '3'"),
            ({"consumer_count": 0}, "consumer_count must be an integer >= 1, got 0"),
            ({"dlq_enabled": "perhaps"}, "perhaps"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_what_a_subscription_cannot_be(self, fields, says):
        with pytest.raises(ConfigurationError, match=says):
            SubscriptionConfig(**fields)

    @pytest.mark.parametrize(
        "fields",
        [
            {"max_attempts": 0},
            {"max_attempts": -1},
            {"max_attempts": 1001},
            {"initial": -1},
            {"initial": float("nan")},
            {"factor": 0.5},
            {"factor": float("inf")},
            {"max": -1},
            {"jitter": "some"},
            {"attempts": 3},
        ],
    )
    def test_what_a_retry_policy_cannot_be(self, fields):
        name = next(iter(fields))
        with pytest.raises(ConfigurationError, match=rf"RetryPolicy\({name}="):
            RetryPolicy(**fields)

    def test_durations_may_be_timedeltas_and_zero_means_zero(self):
        config = SubscriptionConfig(
            timeout=timedelta(minutes=1),
            lease=timedelta(seconds=20),
            retry=RetryPolicy(initial=timedelta(seconds=2), max=timedelta(hours=1)),
        )
        assert (config.timeout, config.lease, config.retry.initial, config.retry.max) == (60, 20, 2, 3600)
        assert RetryPolicy(initial=0, max=0).max == 0

    @pytest.mark.parametrize("start", ["beginning", "now", "17-0", datetime(2026, 1, 1, tzinfo=UTC)])
    def test_where_a_group_may_begin(self, start):
        assert SubscriptionConfig(start_from=start).start_from == start

    @pytest.mark.parametrize(
        ("fields", "name", "value"),
        [
            ({"max_retries": 0}, "retry", RetryPolicy(max_attempts=1)),
            ({"max_retries": 3}, "retry", RetryPolicy(max_attempts=4)),
            ({"dlq_retry_limit": 5}, "retry", RetryPolicy(max_attempts=6)),
            ({"consumer_count": 3}, "max_concurrency", 30),
            ({"dlq_enabled": False}, "dead_letter", False),
            ({"reclaim_idle_ms": 300_000}, "lease", 15),
            ({"max_retries": 3, "retry": RetryPolicy(max_attempts=2)}, "retry", RetryPolicy(max_attempts=2)),
        ],
    )
    def test_names_of_the_first_version(self, fields, name, value):
        with pytest.warns(DeprecationWarning, match=next(iter(fields))) as warned:
            config = SubscriptionConfig(**fields)
        assert getattr(config, name) == value
        assert warned[0].filename == __file__


class TestNames:
    """What is exported, and what waits for a later round (api.md §7, §9)."""

    def test_everything_exported_is_there(self):
        for name in omnidaemon.__all__:
            assert getattr(omnidaemon, name) is not None
        assert sorted(omnidaemon.__all__) == omnidaemon.__all__
        assert set(omnidaemon.__all__) <= set(dir(omnidaemon))

    def test_every_name_of_the_sdk_is_drawn_or_decided(self):
        """ADR 0003 lists what the drawn interface does not have; update both together."""
        drawn = {
            "add_agent",
            "agent",
            "register_agent",
            "start",
            "stop",
            "shutdown",
            "run",
            "wait_stopped",
            "publish",
            "publish_many",
            "publish_task",
            "task",
            "store",
            "event_bus",
            "list_agents",
            "get_agent",
            "unsubscribe_agent",
            "pause_agent",
            "resume_agent",
            "delete_agent",
            "delete_topic",
            "health",
            "get_result",
            "list_results",
            "delete_result",
            "metrics",
            "get_metrics",
            "clear_results",
            "clear_metrics",
            "save_config",
            "get_config",
            "storage_health",
            "list_streams",
            "inspect_stream",
            "list_topics",
            "inspect_topic",
            "topic_stats",
            "list_groups",
            "inspect_dlq",
            "get_bus_stats",
            "cancel",
            "dead_letters",
            "replay_dead_letters",
            "purge_dead_letters",
            "replay",
            "list_tasks",
            "get_task",
        }
        decided = {"skip", "clear_agents", "clear_config", "clear_all", "agents", "running", "settings", "stop_intake"}
        internal = {
            "choose",
            "clock",
            "connections",
            "agent_row",
            "agent_rows",
            "agents_on",
            "answer",
            "find_one",
            "find_records",
            "record_page",
            "served",
            "webhooks",
            "workers",
        }
        shown = {name for name in {*dir(OmniDaemonSDK), *vars(OmniDaemonSDK())} if not name.startswith("_")}
        assert shown == drawn | decided | internal

    def test_every_error_is_exported(self):
        from omnidaemon.model import errors

        assert set(errors.__all__) <= set(omnidaemon.__all__)
        assert all(issubclass(getattr(errors, name), errors.OmniDaemonError) for name in errors.__all__)

    @pytest.mark.parametrize("name", ["start_api_server", "create_supervisor_from_directory"])
    def test_names_of_a_later_round_say_what_replaces_them(self, name):
        done = subprocess.run(
            [sys.executable, "-c", f"from omnidaemon import {name}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"ImportError: cannot import {name!r} from 'omnidaemon': ")
        assert "omnidaemon" in last.split(": ", 2)[2]

    def test_so_does_the_supervisors_module(self):
        for name in ("omnidaemon.agent_runner", "omnidaemon.agent_runner.agent_supervisor_runner"):
            with pytest.raises(ImportError, match=r"omnidaemon.agent_runner is gone: .* `omnidaemon run MODULE:SDK`"):
                importlib.import_module(name)

    def test_any_other_name_is_an_ordinary_error(self):
        with pytest.raises(AttributeError, match="module 'omnidaemon' has no attribute 'nonsense'"):
            _ = omnidaemon.nonsense
        assert not hasattr(omnidaemon, "nonsense")
