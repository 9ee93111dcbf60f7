"""``txp doctor``: what would go wrong, before a deploy finds out."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from txpatterns.admin.broker_watch import examine_broker
from txpatterns.admin.doctor import examine_database
from txpatterns.app import App
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, load_app, open_database
from txpatterns.cli.output import DIFFERENT, examples, show
from txpatterns.findings import Finding, Severity
from txpatterns.transport import Checks

StrictOption = Annotated[bool, typer.Option("--strict", help="Warnings count as errors do.")]

_ORDER = tuple(Severity)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor", epilog=examples("txp doctor --app orders:app", "txp doctor --app orders:app --json"))(doctor)


def doctor(
    app: AppOption = None, database: DatabaseOption = None, strict: StrictOption = False, json: JsonOption = False
) -> None:
    """Look at the database, the tables and the broker, and say what is wrong and what mends it. Changes nothing.

    Without an App only the database is looked at. Exit code 3 when there is an error; good as a gate of a deploy.
    """

    async def work() -> list[Finding]:
        async with open_database(app, database) as opened:
            found = await examine_database(opened)
            return found if app is None else [*found, *await _of_broker(load_app(app))]

    found = sorted(asyncio.run(work()), key=lambda each: _ORDER.index(each.severity))
    lines = [f"{each.severity:8}{each}" for each in found]
    show(found, lines or ["nothing is wrong"], as_data=json)
    if any(each.severity is Severity.ERROR or (strict and each.severity is Severity.WARNING) for each in found):
        raise typer.Exit(DIFFERENT)


async def _of_broker(app: App) -> list[Finding]:
    reads = app.consumer.handlers.topics
    topics = {*reads, *app.registry.topics}
    group = app.name if reads else None
    async with app.broker as broker:
        found = await examine_broker(broker, app.broker_name, sorted(topics), group, app.settings.consumer)
    silent = Finding(Severity.INFO, f"broker {app.broker_name}", "It has nothing that could be looked at.")
    return found if isinstance(broker, Checks) else [silent, *found]
