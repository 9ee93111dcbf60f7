"""``txp group``: who reads what on database://, how much waits for them, and the end of a group."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.groups import GroupDeed, read_group_audit, remove_group
from txpatterns.brokers.database.looking import Reading, readings
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, open_tables
from txpatterns.cli.operators import LimitOption, ReasonOption, with_reason
from txpatterns.cli.output import DIFFERENT, examples, show, table

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


@group.command(
    "remove",
    epilog=examples(
        "txp group remove billing --reason 'service is gone' --app orders:app",
        "txp group remove orders --topic returns --reason 'no handler any more' --yes",
    ),
)
def remove_(
    name: GroupArgument,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    app: AppOption = None,
    database: DatabaseOption = None,
) -> None:
    """Remove a group that is gone for good, and what waits for it. Exit code 3 when there is none.

    One that runs is refused, for it would be made again at its next start, without what was removed. What is done is
    written down: see txp group audit.
    """
    deed = with_reason(reason, "Why is it removed?")
    if not yes:
        typer.confirm(f"What waits for {name} is lost. Go on?", abort=True)

    async def work() -> tuple[int, int]:
        async with open_tables(app, database) as opened:
            return await remove_group(opened, name, topic, deed)

    topics, messages = asyncio.run(work())
    show(None, [f"removed {topics} topics of {name}, and {messages} messages that waited"], as_data=False)
    if not topics:
        raise typer.Exit(DIFFERENT)


@group.command("audit", epilog=examples("txp group audit --app orders:app", "txp group audit --limit 5 --json"))
def audit(
    limit: LimitOption = 50, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """List which groups were removed, by whom and why, the newest first."""

    async def work() -> list[GroupDeed]:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(read_group_audit, limit=limit))

    found = asyncio.run(work())
    show(found, table([asdict(each) for each in found]) or ["no group was removed"], as_data=json)
