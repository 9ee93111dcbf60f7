"""``txp outbox``: what is to be published, and what became of one message."""

from __future__ import annotations

import asyncio
import json as json_module
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.depths import depths_of
from txpatterns.admin.outbox import Found, OutboxEntry, find_message, list_outbox
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, as_named, open_tables
from txpatterns.cli.output import DIFFERENT, examples, show, table
from txpatterns.cli.remains import beside_the_outbox
from txpatterns.outbox.schema import Waiting
from txpatterns.runtime.moments import Depths

STATES = ("pending", *Waiting, "sent")

StateOption = Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(STATES)}.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only this topic.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
IdArgument = Annotated[str, typer.Argument(metavar="MESSAGE_ID")]

group = typer.Typer(no_args_is_help=True, help="What is to be published.")


@group.command("list", epilog=examples("txp outbox list --app orders:app", "txp outbox list --state parked --json"))
def list_(
    state: StateOption = None,
    topic: TopicOption = None,
    limit: LimitOption = 50,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """List what is not published yet, oldest first, and say how much waits elsewhere.

    What was sent is listed with --state sent, where that is kept.
    """
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"one of {', '.join(STATES)}", param_hint="--state")

    async def work() -> tuple[list[OutboxEntry], Depths]:
        async with open_tables(app, database) as opened:
            depths = await depths_of(opened)
            return await opened.read(partial(list_outbox, state=state, topic=topic, limit=limit)), depths

    found, depths = asyncio.run(work())
    columns = ("id", "state", "topic", "type", "key", "attempts", "due_at")
    rows = [{name: getattr(entry, name) for name in columns} for entry in found]
    lines = table(rows) or ["nothing waits to be published"]
    show(found, [*lines, *beside_the_outbox(depths, as_named(app, database))], as_data=json)


@group.command("show", epilog=examples("txp outbox show 01a201e3-... --app orders:app", "txp outbox show ID --json"))
def show_(
    message_id: IdArgument, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """Show one message with its headers and payload; exit code 3 when it is not here (any more)."""

    async def work() -> Found | None:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(find_message, message_id=message_id))

    found = asyncio.run(work())
    if found is None:
        look = f"txp inbox show {message_id}{as_named(app, database)}"
        show(None, [f"not here: it was published and is not kept (see: {look}), or never committed"], as_data=json)
        raise typer.Exit(DIFFERENT)
    payload = found.payload.decode(errors="replace")
    entry = {name: getattr(found.entry, name) for name in OutboxEntry.__slots__}
    data = {
        **entry,
        "headers": json_module.loads(found.headers),
        "content_type": found.content_type,
        "payload": payload,
    }
    width = max(map(len, data))
    lines = [f"{name.ljust(width)}  {value}" for name, value in data.items() if value is not None]
    show(data, lines, as_data=json)
