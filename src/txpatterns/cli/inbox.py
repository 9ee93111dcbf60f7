"""``txp inbox``: what waits at which handler, and what became of one message there."""

from __future__ import annotations

import asyncio
import json as json_module
from functools import partial
from textwrap import indent
from typing import Annotated

import typer

from txpatterns.admin.deadletters import find_letters
from txpatterns.admin.depths import depths_of
from txpatterns.admin.inbox import STATES, AtHandlers, InboxEntry, find_at_handlers, list_inbox
from txpatterns.admin.matching import message_is
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, as_named, open_tables
from txpatterns.cli.output import DIFFERENT, examples, show, table
from txpatterns.cli.remains import count, dead_letter_lines
from txpatterns.deadletters.letter import DeadLetter

StateOption = Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(STATES)}.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only this topic.")]
ConsumerOption = Annotated[str | None, typer.Option("--consumer", help="Only this handler: APP.HANDLER.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
IdArgument = Annotated[str, typer.Argument(metavar="MESSAGE_ID")]

group = typer.Typer(no_args_is_help=True, help="What was received and waits for its handler.")

_COLUMNS = ("message_id", "consumer", "state", "type", "key", "attempts", "due_at")


@group.command("list", epilog=examples("txp inbox list --app orders:app", "txp inbox list --state parked --json"))
def list_(
    state: StateOption = None,
    consumer: ConsumerOption = None,
    topic: TopicOption = None,
    limit: LimitOption = 50,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """List what was received and is not handled yet, oldest first: what is tried again, and what waits behind that."""
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"one of {', '.join(STATES)}", param_hint="--state")

    async def work() -> tuple[list[InboxEntry], int]:
        async with open_tables(app, database) as opened:
            wanted = partial(list_inbox, state=state, consumer=consumer, topic=topic, limit=limit)
            depths = await depths_of(opened)
            return await opened.read(wanted), depths.dead

    found, dead = asyncio.run(work())
    rows = [{name: getattr(entry, name) for name in _COLUMNS} for entry in found]
    lines = table(rows) or ["nothing waits for its handler"]
    show(found, [*lines, *dead_letter_lines(dead, as_named(app, database))], as_data=json)


@group.command("show", epilog=examples("txp inbox show 01a201e3-... --app orders:app", "txp inbox show ID --json"))
def show_(
    message_id: IdArgument, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """Show at which handlers a message waits and why, which have handled it, and where it is a dead letter.

    Exit code 3 when no handler has seen it.
    """

    async def work() -> tuple[AtHandlers, list[DeadLetter]]:
        async with open_tables(app, database) as opened:
            dead = await opened.read(partial(find_letters, conditions=message_is(message_id)))
            return await opened.read(partial(find_at_handlers, message_id=message_id)), dead

    found, dead = asyncio.run(work())
    if not (found.waiting or found.handled or dead):
        look = f"txp outbox show {message_id}{as_named(app, database)}"
        show(None, [f"no handler has seen it (see: {look}), or that is too long ago"], as_data=json)
        raise typer.Exit(DIFFERENT)
    payload = None if found.payload is None else found.payload.decode(errors="replace")
    data = {
        "waiting": found.waiting,
        "handled": found.handled,
        "dead_letters": dead,
        "headers": None if found.headers is None else json_module.loads(found.headers),
        "content_type": found.content_type,
        "payload": payload,
    }
    show(data, _lines(found, dead, payload, as_named(app, database)), as_data=json)


def _lines(found: AtHandlers, dead: list[DeadLetter], payload: str | None, where: str) -> list[str]:
    lines = [f"{done.consumer}: handled at {done.processed_at}" for done in found.handled]
    for entry in found.waiting:
        until = f"next attempt at {entry.due_at}" if entry.due_at else "waits for what is before it in its key"
        lines.append(f"{entry.consumer}: {entry.state} after {count(entry.attempts, 'attempt')}, {until}")
        if entry.error is not None:
            lines.append(indent(entry.error, "    "))
    for letter in dead:
        who = letter.consumer or "the relay"
        lines.append(f"{who}: dead letter {letter.id}, {letter.reason} (see: txp dlq show {letter.id}{where})")
    return lines if payload is None else [*lines, f"headers  {found.headers}", f"payload  {payload}"]
