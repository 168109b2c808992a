"""The frame of a contestant's process: what it is told, and how it answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
"""What one run of one measurement gave."""


@dataclass(frozen=True)
class Job:
    """What a contestant is to do."""

    mode: str
    url: str
    redis_pid: int
    events: int
    out: str
    size: int = 400
    more: dict[str, Any] = field(default_factory=dict)

    def ready(self) -> None:
        """Tell the harness that publishing may begin."""
        Path(f"{self.out}.ready").touch()


def main(modes: Mapping[str, Callable[[Job], Coroutine[Any, Any, Sample]]]) -> None:
    """Run the mode that the first argument names and leave its sample in the file that it names."""
    job = Job(**json.loads(sys.argv[1]))
    sample = asyncio.run(modes[job.mode](job))
    unfinished = Path(f"{job.out}.part")
    unfinished.write_text(json.dumps(sample))
    unfinished.rename(job.out)
    sys.stdout.flush()
    os._exit(0)  # what a contestant does at its exit is not measured and must not keep us
