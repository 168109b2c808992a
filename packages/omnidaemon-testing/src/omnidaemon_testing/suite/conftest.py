"""Fixtures of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnidaemon_testing.contracts.base import ContractBase
from omnidaemon_testing.suite.backends import suite_timing


@pytest.fixture(autouse=True)
def suite_times(request: pytest.FixtureRequest) -> None:
    """Stretch the times as asked for."""
    if isinstance(request.instance, ContractBase):
        request.instance.timing = suite_timing(request.config)


@pytest.fixture(autouse=True)
def suite_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own: a backend's default file is made there."""
    monkeypatch.chdir(tmp_path)
