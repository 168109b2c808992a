"""The workspace as wheels, and clean environments to install them into."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent


def members() -> dict[str, dict[str, Any]]:
    """Every package of the workspace by its folder's name, with its pyproject."""
    return {
        path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
    }


def module_of(pyproject: Mapping[str, Any]) -> str | None:
    """The module that a package ships; None for a bundle."""
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"].get("packages")
    return Path(packages[0]).name if packages else None


def build(folder: Path) -> dict[str, Path]:
    """Build a wheel of every package into ``folder``; by package name."""
    built = {}
    for name in members():
        before = set(folder.glob("*.whl"))
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        done = subprocess.run(command, cwd=ROOT / "packages" / name, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name} does not build:\n{done.stdout}{done.stderr}"
        (built[name],) = set(folder.glob("*.whl")) - before
    return built


@dataclass
class Environment:
    """A virtual environment of its own, with nothing of this one in it."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Environment:
        """Create it, with pip."""
        venv.create(folder, with_pip=True)
        return cls(folder)

    @property
    def bin(self) -> Path:
        """Where its commands are."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    def install(self, *what: Path | str, options: tuple[str, ...] = ()) -> None:
        """Install by pip; wheels by their path, so that no registry can answer with another of that name."""
        done = self.run("python", "-m", "pip", "install", "-q", *options, *map(str, what), timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(
        self, *command: str, cwd: Path | None = None, timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands with a clean environment plus ``variables``."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OMNIDAEMON_", "PYTHON", "VIRTUAL_ENV", "COVERAGE"))
            and name not in {"EVENT_BUS_TYPE", "STORAGE_BACKEND", "REDIS_URL", "SQLITE_PATH"}
        }
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=cwd or self.folder,
            env={**inherited, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
