"""``txp group``: who reads what on database://, how much waits for them, and the end of a group."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from txpatterns.brokers.database.looking import Reading, living, readings, remove
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, open_tables
from txpatterns.cli.output import DIFFERENT, examples, show, table
from txpatterns.errors import ConfigurationError

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The name of its App.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only this topic.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

group = typer.Typer(no_args_is_help=True, help="The queues of database://, the database as the broker.")


@group.command("list", epilog=examples("txp group list --app orders:app", "txp group list --json"))
def list_(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """List which group reads which topic, how many messages wait for it, and how many processes read it now."""

    async def work() -> list[Reading]:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(readings, database=opened))

    found = asyncio.run(work())
    rows = [
        {
            "group": each.group,
            "topic": each.topic,
            "waiting": each.waiting,
            "oldest": "" if each.oldest is None else f"{each.oldest.total_seconds():.0f} s",
            "members": each.members,
        }
        for each in found
    ]
    show(found, table(rows) or ["no group has ever read from database://"], as_data=json)


@group.command("remove", epilog=examples("txp group remove billing --app orders:app", "txp group remove billing --yes"))
def remove_(
    name: GroupArgument,
    topic: TopicOption = None,
    yes: YesOption = False,
    app: AppOption = None,
    database: DatabaseOption = None,
) -> None:
    """Remove a group that is gone for good, and what waits for it. Exit code 3 when there is none.

    One that runs is refused, for it would be made again at its next start, without what was removed.
    """
    if not yes:
        typer.confirm(f"What waits for {name} is lost. Go on?", abort=True)

    async def work() -> tuple[int, int]:
        async with open_tables(app, database) as opened:
            if await opened.read(partial(living, database=opened, group=name, topic=topic)):
                raise ConfigurationError(f"The group {name} runs.", fix="Stop its processes first.")
            return await opened.transact(partial(remove, group=name, topic=topic))

    topics, messages = asyncio.run(work())
    show(None, [f"removed {topics} topics of {name}, and {messages} messages that waited"], as_data=False)
    if not topics:
        raise typer.Exit(DIFFERENT)
