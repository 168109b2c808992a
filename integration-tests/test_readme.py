"""What the READMEs say is executed: their Python, and every line that runs `omnidaemon` or `python`."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field

import pytest

from command import Command
from wheelhouse import ROOT, members

README = ROOT / "README.md"
READMES = [README, *sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("examples/*/README.md"))]
TEXTS = [
    *READMES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *ROOT.glob("docs/**/*.md"),
]
_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
# What a README calls app.py without showing it: publishes and works in one process, so that it runs on memory, too.
ANY_APP = """
import asyncio

from omnidaemon import OmniDaemonSDK

sdk = OmniDaemonSDK()


@sdk.agent("file.uploaded")
async def summarise(message: dict) -> str:
    return message["content"]["filename"]


async def main():
    await sdk.start()
    try:
        event = await sdk.publish("file.uploaded", {"filename": "app.py"})
        print(await event.result(agent="summarise", timeout=20))
    finally:
        await sdk.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
"""


def blocks(path, language):
    return [text for kind, text in _BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def name_of(path):
    return str(path.relative_to(ROOT))


@dataclass
class Reader:
    """Somebody who types what he reads, in a folder of his own."""

    command: Command
    variables: dict[str, str]
    stack: contextlib.ExitStack
    event: str = "none"
    typed: list[str] = field(default_factory=list)

    def type(self, line: str) -> None:
        """Run a line; what goes on by itself goes on until the end."""
        words = shlex.split(line)
        variables = dict(self.variables)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables.setdefault(name, value)
        program, *arguments = words
        arguments = [re.sub(r"\bID\b", self.event, argument) for argument in arguments]
        if program == "omnidaemon" and arguments[0] == "run":
            worker = self.stack.enter_context(self.command.running(*arguments, **variables))
            worker.ready(int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1)
        elif words == ["omnidaemon", "demo"]:
            pass  # it has tests of its own, and takes its time
        elif program == "omnidaemon":
            done = self.command(*arguments, timeout=60, **variables)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            self.event = (re.findall(r"published (\S+) on", done.stdout) or [self.event])[0]
        elif program == "python":
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=self.command.folder,
                env=self.command.environment(**variables),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            assert done.stdout
        else:
            return
        self.typed.append(line)


def read(path, folder, variables):
    """Do what a README says, from its top to its end, and return the lines that were executed."""
    (folder / "app.py").write_text(ANY_APP)
    if path.parent.parent.name == "examples":
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
    shutil.copy(path, folder / "README.md")
    with contextlib.ExitStack() as stack:
        reader = Reader(Command(folder), variables, stack)
        for kind, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
            if kind == "python":
                named = re.match(r"# (\w+\.py)\n", text)
                assert named, f"{path}: begin the snippet with its file's name"
                (folder / named[1]).write_text(text)
            elif kind == "console":
                for line in text.splitlines():
                    reader.type(line)
        return reader.typed


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in READMES if "redis" not in path.parent.name], ids=name_of)
def test_what_a_readme_says_can_be_done(path, tmp_path):
    typed = read(path, tmp_path, {})
    shown = [line for block in blocks(path, "console") for line in block.splitlines()]
    assert typed == [line for line in shown if re.match(r"([A-Z_]+=\S* )*(omnidaemon|python) ", line)]


@pytest.mark.slow
def test_what_the_readme_of_redis_says_can_be_done(redis_url, tmp_path):
    variables = {"REDIS_URL": redis_url, "OMNIDAEMON_NAMESPACE": "readme"}
    assert read(ROOT / "packages/omnidaemon-redis/README.md", tmp_path, variables)


def test_the_readme_opens_with_the_two_commands():
    text = README.read_text(encoding="utf-8")
    make = "python3 -m venv .venv-hatch && .venv-hatch/bin/pip install -q hatch && .venv-hatch/bin/hatch run"
    found = [line for block in blocks(README, "console") for line in block.splitlines()]
    assert found[:2] == [f"{make} demo", f"{make} test"]
    assert text.index(make) < 1500, "at its top"
    assert "OMNIDAEMON_TEST_SERVICES= " in text
    assert len(text.splitlines()) < 130, "one to two screens"


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_hatch_script_that_is_named_exists(path):
    environments = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]
    for name in re.findall(r"hatch run ([\w:]+)", path.read_text(encoding="utf-8")):
        environment, _, script = name.rpartition(":")
        assert script in environments[environment or "default"]["scripts"], name


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nothing_says_to_install_the_foreign_package_or_one_that_is_not_here(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        for words in re.findall(r"pip install ([^`&|]*)", line):
            names = [re.split(r"[\[=<>~]", word.strip("\"'"))[0] for word in words.split() if not word.startswith("-")]
            assert "omnidaemon" not in names, line
            if path in READMES:
                assert {name for name in names if name.startswith("omnidaemon")} <= members().keys(), line


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
