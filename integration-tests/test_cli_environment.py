"""What surrounds the command: `.env`, a foreign `omnidaemon`, and commands of other packages."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from command import Command


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.mark.slow
def test_dotenv_is_read_by_the_command_only_and_never_wins(command):
    (command.folder / ".env").write_text("SQLITE_PATH=from-file.db\nOMNIDAEMON_NAMESPACE=fromfile\n")
    by_check = {found["check"]: found["detail"] for found in command.json("doctor")["findings"]}
    assert str(command.folder / "from-file.db") in by_check["store"]
    assert by_check["namespace"] == "fromfile"
    assert by_check[".env"] == "sets OMNIDAEMON_NAMESPACE, SQLITE_PATH"
    found = command.json("doctor", OMNIDAEMON_NAMESPACE="real")["findings"]
    assert {finding["check"]: finding["detail"] for finding in found}["namespace"] == "real"
    code = "from omnidaemon import OmniDaemonSDK; print(OmniDaemonSDK().settings.namespace)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=command.folder,
        env=command.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "omni\n"


def distribution(folder, name, version, entry_points=""):
    """Put an installed distribution into a folder."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))


@pytest.mark.slow
def test_a_foreign_omnidaemon_is_refused_before_anything_of_it_is_imported(command):
    site = command.folder / "site"
    distribution(site, "omnidaemon", "0.1.1")
    (site / "omnidaemon").mkdir()
    (site / "omnidaemon" / "__init__.py").write_text("raise RuntimeError('the foreign one was imported')\n")
    for arguments in (("doctor",), ("run", "app:sdk"), ("task", "list"), ("version",)):
        done = command(*arguments, PYTHONPATH=str(site))
        assert done.returncode == 1
        assert done.stdout == ""
        assert "0.1.1" in done.stderr
        assert (
            "pip uninstall -y omnidaemon && pip install --force-reinstall --no-deps omnidaemon-core omnidaemon-cli"
            in done.stderr
        )
        assert "Traceback" not in done.stderr


def test_the_cure_is_word_for_word_the_one_of_core():
    from omnidaemon import plugins
    from omnidaemon_cli import main

    assert main.CURE == plugins.CURE


PLUGIN = """
import typer

app = typer.Typer()


@app.command()
def hello() -> None:
    print("hello from outside")
"""


@pytest.mark.slow
def test_commands_of_other_packages_are_mounted_and_loaded_only_when_called(command):
    site = command.folder / "site"
    points = """
        [omnidaemon.cli]
        extra = extra_commands:app
        broken = broken_commands:app
        wrong = extra_commands:PLAIN
        task = extra_commands:app
    """
    distribution(site, "omnidaemon-extra", "1.0", points)
    (site / "extra_commands.py").write_text(PLUGIN + "\nPLAIN = 1\n")
    (site / "broken_commands.py").write_text("raise RuntimeError('broken')\n")
    outside = Command(command.folder, {"PYTHONPATH": str(site)})
    assert outside.ok("extra", "hello") == "hello from outside\n"
    shown = outside.ok("--help")
    assert re.search(r"extra +of omnidaemon-extra", shown)
    assert re.search(r"broken +of omnidaemon-extra", shown)
    for name, why in (("broken", "RuntimeError: broken"), ("wrong", "no typer.Typer")):
        done = outside(name)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert why in done.stderr
    assert "publish" in outside.ok("task", "--help"), "a command of ours is never replaced"
