"""Shows one task's record to people."""

from __future__ import annotations

from typing import Any

from omnidaemon_cli.output import line, moment, pairs, pretty

__all__ = ["show_record"]


def show_record(record: dict[str, Any]) -> None:
    """Print what a record holds: state, event, result or reason, and every attempt."""
    waits = record.get("asked")
    pairs(
        [
            ("task", record["id"]),
            ("topic", record["topic"]),
            ("state", record["state"]),
            ("reason", record.get("reason")),
            ("attempt", record["attempt"]),
            ("generation", record["generation"] or None),
            ("created", moment(record["created"])),
            ("changed", moment(record["timestamp"])),
            ("next try", moment(record.get("next_attempt_at"))),
            ("worker", record.get("worker") or record.get("runner_id")),
            ("took", None if record.get("took") is None else f"{record['took']:.3f} s"),
            ("asks", f"{waits['key']}: {waits['question']}" if waits else None),
            ("tenant", record.get("tenant_id")),
            ("correlation", record.get("correlation_id")),
            ("causation", record.get("causation_id")),
        ]
    )
    for name in ("content", "result"):
        if name in record:
            line()
            line(name, style="bold")
            line(pretty(record[name]))
    for attempt in record["history"]:
        _show_attempt(attempt)


def _show_attempt(attempt: dict[str, Any]) -> None:
    line()
    again = f" of generation {attempt['generation']}" if attempt["generation"] else ""
    line(f"attempt {attempt['attempt']}{again}, {moment(attempt['started'])}, {attempt['took']:.3f} s", style="bold")
    for step, took in attempt.get("steps", {}).items():
        line(f"  step {step}: {took:.3f} s")
    if "error_type" in attempt:
        text = attempt.get("traceback") or f"{attempt['error_type']}: {attempt['error']}"
        for part in text.rstrip().splitlines():
            line(f"  {part}")
