"""Choosing backends, and every way to get it wrong (api.md §6, design §2)."""

import asyncio
import sys
import textwrap

import pytest

import omnidaemon
from omnidaemon import (
    BackendConflict,
    BackendImportError,
    BackendIncompatible,
    BackendNotInstalled,
    ConfigurationError,
    ForeignPackage,
    OmniDaemonSDK,
    StoreTooNarrow,
    UnknownBackend,
)
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
