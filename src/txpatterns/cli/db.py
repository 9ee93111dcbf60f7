"""``txp db``: the library's tables."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, open_database, place_of
from txpatterns.cli.output import DIFFERENT, examples, show
from txpatterns.database import migrations
from txpatterns.database.migrations import MigrationState

DialectOption = Annotated[str | None, typer.Option("--dialect", help="postgresql or sqlite.")]

group = typer.Typer(no_args_is_help=True, help="The library's tables: make, check, write out as SQL.")


@group.command(
    epilog=examples("txp db upgrade --app orders:app", "TXP_DATABASE_URL=postgresql+asyncpg://... txp db upgrade")
)
def upgrade(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """Make the library's tables, or bring them up to this version. Run it as often as you like."""

    async def work() -> MigrationState:
        async with open_database(app, database, make=True) as opened:
            return await opened.transact(migrations.upgrade)

    done = asyncio.run(work())
    changed = done.current != done.head
    text = f"upgraded from {done.current or 'nothing'} to {done.head}" if changed else f"at {done.head}, nothing to do"
    show({"before": done.current, "now": done.head, "changed": changed}, [text], as_data=json)


@group.command(epilog=examples("txp db check --app orders:app", "txp db check --database sqlite:///orders.db --json"))
def check(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """Compare the library's tables with what this version needs; exit code 3 when they differ. Changes nothing."""

    async def work() -> MigrationState:
        async with open_database(app, database) as opened:
            return await opened.read(migrations.check)

    state = asyncio.run(work())
    data = {"revision": state.current, "head": state.head, "differences": list(state.differences)}
    good = [f"the tables fit this version (revision {state.current or 'of your own chain'})"]
    show(data, good if state.is_current else ["the tables differ:", *state.differences], as_data=json)
    if not state.is_current:
        raise typer.Exit(DIFFERENT)


@group.command(
    epilog=examples("txp db sql --dialect postgresql > tables.sql", "txp db sql --app orders:app > tables.sql")
)
def sql(
    dialect: DialectOption = None, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """Print the statements of all migrations, for whoever runs them by hand. Connects to nothing.

    They are those of --dialect, or else of the database of the App or URL, or else of PostgreSQL.
    """
    said, schema = place_of(app, database)
    dialect = dialect or said or "postgresql"
    if dialect not in ("postgresql", "sqlite"):
        raise typer.BadParameter("postgresql or sqlite", param_hint="--dialect")
    text = migrations.sql(dialect, schema if dialect == "postgresql" else None)
    show({"dialect": dialect, "sql": text}, [text.rstrip()], as_data=json)
