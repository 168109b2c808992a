"""Settings: one model, its variables, and their precedence (api.md §6)."""

from datetime import timedelta

import pytest

from omnidaemon import (
    ConfigurationError,
    OmniDaemonSDK,
)
from omnidaemon.settings import Settings

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
