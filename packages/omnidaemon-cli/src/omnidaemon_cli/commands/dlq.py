"""``omnidaemon dlq``: dead letters, and how they get another chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnidaemon_cli.output import AsJson, emit, line, moment, table
from omnidaemon_cli.records import show_record
from omnidaemon_cli.session import with_sdk

if TYPE_CHECKING:
    from omnidaemon import OmniDaemonSDK

__all__ = ["app"]

app = typer.Typer(help="Dead letters: what agents gave up on.", no_args_is_help=True)

Topic = Annotated[str | None, typer.Option("--topic", "-t", help="Of this topic only.")]
Agent = Annotated[str | None, typer.Option(help="Of this agent only.")]
Tenant = Annotated[str | None, typer.Option("--tenant-id", help="Of this tenant only.")]


@app.command("list")
def list_(
    topic_argument: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Of this topic only.")] = None,
    *,
    topic: Topic = None,
    agent: Agent = None,
    tenant_id: Tenant = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""

    async def work(sdk: OmniDaemonSDK) -> list[dict[str, Any]]:
        return await sdk.dead_letters(topic_argument or topic, agent, tenant=tenant_id, limit=limit)

    letters = with_sdk(work)

    def text() -> None:
        if not letters:
            line("no dead letters")
            return
        table(("task", "topic", "reason", "attempts", "died", "last error"), map(_row, letters))

    emit({"dead_letters": letters}, as_json, text)


def _row(letter: dict[str, Any]) -> tuple[Any, ...]:
    last = letter.get("last_error")
    error = f"{last['type']}: {last['message']}" if last else None
    return letter["id"], letter["topic"], letter["reason"], letter["attempt"], moment(letter["timestamp"]), error


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A task's id, or its event's id.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its event, and every attempt with its traceback."""

    async def work(sdk: OmniDaemonSDK) -> dict[str, Any]:
        from omnidaemon import TaskNotFound

        record = await sdk.get_task(task_id)
        if record is None or not (record["state"] == "failed" and "reason" in record):
            raise TaskNotFound(f"{task_id} is no dead letter")
        return record

    letter = with_sdk(work)
    emit(letter, as_json, lambda: show_record(letter))


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which; or choose by the options.")] = None,
    *,
    topic: Topic = None,
    agent: Agent = None,
    reason: Annotated[str | None, typer.Option(help="With this reason only, e.g. max_attempts.")] = None,
    tenant_id: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Run dead letters again, for the agent that gave up only, with fresh attempts."""
    chosen = {"topic": topic, "agent": agent, "reason": reason, "tenant": tenant_id}
    if bool(ids) == any(value is not None for value in chosen.values()):
        raise typer.BadParameter("say which: either IDs, or --topic, --agent, --reason or --tenant-id")

    async def work(sdk: OmniDaemonSDK) -> int:
        return await sdk.replay_dead_letters(ids or None, **chosen)

    number = with_sdk(work)
    emit({"replayed": number}, as_json, lambda: line(f"replayed {number}"))
