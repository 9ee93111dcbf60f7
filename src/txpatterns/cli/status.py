"""``txp status``: how much waits, and how old the oldest of it is."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer

from txpatterns.admin.depths import depths_of
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, as_named, open_tables
from txpatterns.cli.output import examples, show, table
from txpatterns.runtime.moments import Depths

SEE = {
    "depth": ("to be published", "txp outbox list --state pending"),
    "scheduled": ("for their time or key, to be published", "txp outbox list"),
    "waiting": ("at handlers, to be tried again", "txp inbox list"),
    "sagas": ("sagas that have not ended", "txp saga list"),
    "tcc": ("TCC transactions that have not ended", "txp tcc list"),
    "dead": ("dead letters", "txp dlq list"),
}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("status", epilog=examples("txp status --app orders:app", "txp status --json"))(status)


def status(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """Count what waits in the database, each up to 100,000, and say how old the oldest of it is."""

    async def work() -> Depths:
        async with open_tables(app, database) as opened:
            return await depths_of(opened)

    depths = asyncio.run(work())
    option = as_named(app, database)
    rows = [
        {"messages": getattr(depths, name), "where": where, "see": command + option}
        for name, (where, command) in SEE.items()
    ]
    age = f"the oldest that waits is {depths.oldest_age.total_seconds():.0f} s old"
    show(asdict(depths), [*table(rows), age if depths.oldest_age else "nothing waits"], as_data=json)
