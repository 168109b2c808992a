"""What is exported, and what waits for a later round (api.md §7, §9)."""

import importlib
import subprocess
import sys

import pytest

import omnidaemon
from omnidaemon import (
    OmniDaemonSDK,
)


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
