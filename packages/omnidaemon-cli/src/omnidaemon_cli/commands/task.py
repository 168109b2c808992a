"""``omnidaemon task``: publish events, and see what became of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnidaemon_cli.output import AsJson, clean, emit, line, moment, pretty, table
from omnidaemon_cli.records import show_record
from omnidaemon_cli.session import with_sdk

if TYPE_CHECKING:
    from omnidaemon import OmniDaemonSDK

__all__ = ["app"]

app = typer.Typer(help="Publish events, and see what became of them.", no_args_is_help=True)

TaskId = Annotated[
    str | None, typer.Argument(metavar="ID", help="A task's id, or its event's id if one agent works on it.")
]
OldTaskId = Annotated[str | None, typer.Option("--task-id", hidden=True)]


@app.command()
def publish(
    topic: Annotated[str | None, typer.Argument(help="The topic.")] = None,
    content: Annotated[str | None, typer.Argument(help="JSON; other text is sent as a string; - reads stdin.")] = None,
    *,
    topic_option: Annotated[str | None, typer.Option("--topic", "-t", hidden=True)] = None,
    content_option: Annotated[str | None, typer.Option("--content", "-c", hidden=True)] = None,
    payload_file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A file with the content as JSON; without TOPIC, with a whole envelope."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Events of one key run one at a time, in order.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again runs nothing twice.")] = None,
    session_id: Annotated[str | None, typer.Option(help="The conversation it belongs to.")] = None,
    delay: Annotated[float | None, typer.Option(min=0, help="Seconds before it may run.")] = None,
    reply_to: Annotated[str | None, typer.Option(help="Topic that gets the result as an event.")] = None,
    webhook: Annotated[str | None, typer.Option(help="URL that gets the outcome.")] = None,
    tenant_id: Annotated[str | None, typer.Option(help="An attribute for queries.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="Shared by all events of one piece of business.")] = None,
    causation_id: Annotated[str | None, typer.Option(help="What caused this event.")] = None,
    source: Annotated[str | None, typer.Option(help="Who publishes it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish one event and print its id.

    omnidaemon task publish file.uploaded '{"filename": "a.txt"}'
    """
    # With --topic given, the only positional argument is the content.
    if topic_option is not None and topic is not None and content is None:
        topic, content = None, topic
    fields = {
        "key": key,
        "idempotency_key": idempotency_key,
        "session_id": session_id,
        "delay": delay,
        "reply_to": reply_to,
        "webhook": webhook,
        "tenant_id": tenant_id,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "source": source,
    }
    event = _event(
        _one(topic, topic_option, "TOPIC", "--topic"),
        _one(content, content_option, "CONTENT", "--content"),
        payload_file,
        {name: value for name, value in fields.items() if value is not None},
    )

    async def work(sdk: OmniDaemonSDK) -> dict[str, str]:
        handle = await sdk.publish(event[0], event[1], **event[2])
        return {"id": handle.id, "topic": handle.topic}

    done = with_sdk(work)
    emit(done, as_json, lambda: line(f"published {done['id']} on {done['topic']}"))


def _one(positional: str | None, option: str | None, name: str, flag: str) -> str | None:
    if positional is not None and option is not None:
        raise typer.BadParameter(f"give {name} or {flag}, not both")
    return option if positional is None else positional


def _event(
    topic: str | None, content: str | None, file: Path | None, fields: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """Return what ``sdk.publish`` takes."""
    if content is not None and file is not None:
        raise typer.BadParameter("give CONTENT or --payload-file, not both")
    if file is None:
        if topic is None:
            raise typer.BadParameter("say on which TOPIC")
        if content is None:
            raise typer.BadParameter("say what: CONTENT, - for stdin, or --payload-file")
        text = sys.stdin.read() if content == "-" else content
        try:
            return topic, json.loads(text), fields
        except ValueError:
            return topic, text, fields
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}") from None
    if topic is not None:
        return topic, value, fields
    if fields or not isinstance(value, dict) or not {"topic", "payload"} <= value.keys():
        raise typer.BadParameter(f"say on which TOPIC; {file} is only published alone if it is a whole envelope")
    from pydantic import ValidationError

    from omnidaemon import EventEnvelope

    try:
        return EventEnvelope.model_validate(value), None, {}
    except ValidationError as error:
        raise typer.BadParameter(f"{file} is no envelope: {error.errors(include_url=False)[0]['msg']}") from None


def _needed(positional: str | None, option: str | None) -> str:
    task_id = _one(positional, option, "ID", "--task-id")
    if task_id is None:
        raise typer.BadParameter("say which task: its ID")
    return task_id


@app.command()
def get(task_id: TaskId = None, *, old: OldTaskId = None, as_json: AsJson = False) -> None:
    """Show a task in any state, with every attempt."""
    name = _needed(task_id, old)
    record = with_sdk(lambda sdk: _record(sdk, name))
    emit(record, as_json, lambda: show_record(record))


@app.command()
def result(task_id: TaskId = None, *, old: OldTaskId = None, as_json: AsJson = False) -> None:
    """Print a finished task's result.

    Exit code 1 if it did not end well or has not ended, 3 if nobody has met it.
    """
    name = _needed(task_id, old)
    _outcome(with_sdk(lambda sdk: _record(sdk, name)), as_json=as_json)


@app.command()
def wait(
    task_id: TaskId = None,
    *,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; else for ever.")] = None,
    old: OldTaskId = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a task, then print its result.

    Progress goes to stderr meanwhile. Exit codes as for `result`.
    """
    name = _needed(task_id, old)

    async def work(sdk: OmniDaemonSDK) -> dict[str, Any]:
        async for entry in sdk.task(name).progress(timeout=timeout):
            if not as_json:
                print(_progress(entry), file=sys.stderr, flush=True)
        return await _record(sdk, name)

    _outcome(with_sdk(work), as_json=as_json)


def _progress(entry: dict[str, Any]) -> str:
    percent = f"{entry['percent']:g} %" if "percent" in entry else ""
    rest = [json.dumps(entry[name]) for name in ("data", "chunk") if name in entry]
    return clean("  ".join(part for part in (percent, entry.get("message", ""), *rest) if part))


async def _record(sdk: OmniDaemonSDK, task_id: str) -> dict[str, Any]:
    from omnidaemon import TaskNotFound

    record = await sdk.get_task(task_id)
    if record is None:
        raise TaskNotFound(
            f"no agent has a record of {task_id}: it has not been claimed yet, was never published, or its record"
            " has expired"
        )
    return record


def _outcome(record: dict[str, Any], *, as_json: bool) -> None:
    state = record["state"]
    if state == "completed":
        emit(record, as_json, lambda: line(pretty(record["result"])))
        return
    if as_json:
        emit(record, as_json, line)
    else:
        last = record.get("last_error")
        why = f": {last['type']}: {last['message']}" if last else ""
        print(clean(f"task {record['id']} is {state}{why}"), file=sys.stderr)
    raise typer.Exit(1)


@app.command("list")
def list_(
    *,
    agent: Annotated[str | None, typer.Option(help="Of this agent only.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="Of this topic only.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="In this state only; may be repeated.")] = None,
    tenant_id: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 100,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, the last changed first."""

    async def work(sdk: OmniDaemonSDK) -> dict[str, Any]:
        return await sdk.list_tasks(
            agent=agent, topic=topic, state=state or None, tenant=tenant_id, limit=limit, cursor=cursor
        )

    page = with_sdk(work)

    def text() -> None:
        if not page["tasks"]:
            line("no tasks")
            return
        table(("task", "topic", "state", "attempt", "changed", "last error"), map(_row, page["tasks"]))
        if page["cursor"] is not None:
            line(f"more: --cursor {page['cursor']}", style="dim")

    emit(page, as_json, text)


def _row(task: dict[str, Any]) -> tuple[Any, ...]:
    last = task.get("last_error")
    error = f"{last['type']}: {last['message']}" if last else None
    return task["id"], task["topic"], task["state"], task["attempt"], moment(task["timestamp"]), error
