"""``txp ids``: what an id says, and who makes ids under which worker number."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.ids import HELD, WorkerEntry, list_workers
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, open_tables
from txpatterns.cli.output import DIFFERENT, examples, show, table
from txpatterns.errors import IdInvalid
from txpatterns.ids.layout import explain
from txpatterns.ids.worker_store import RESERVED

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As a whole number.")]
AllOption = Annotated[bool, typer.Option("--all", help="Those that nobody has, too.")]

group = typer.Typer(no_args_is_help=True, help="64-bit ids, and the worker numbers that they are made under.")


@group.command("explain", epilog=examples("txp ids explain 252620073519284224", "txp ids explain ID --json"))
def explain_(id: IdArgument, json: JsonOption = False) -> None:
    """Say when an id was made, and under which worker number. Asks no database; exit code 3 for what is no id."""
    try:
        parts = explain(int(id))
    except (IdInvalid, ValueError):
        show(None, ["that is no id: it is a whole number from 0 to 9223372036854775807"], as_data=json)
        raise typer.Exit(DIFFERENT) from None
    data = {"id": str(parts.id), "at": parts.at, "worker": parts.worker, "sequence": parts.sequence}
    of_blocks = " (a block of the database)" if parts.worker == RESERVED else ""
    at = parts.at.isoformat(sep=" ", timespec="milliseconds")
    lines = [f"made at   {at}", f"worker    {parts.worker}{of_blocks}", f"sequence  {parts.sequence}"]
    show(data, lines, as_data=json)


@group.command("workers", epilog=examples("txp ids workers --app orders:app", "txp ids workers --all --json"))
def workers(
    every: AllOption = False, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """List who makes ids under which worker number, and up to which time each number may have been used."""

    async def work() -> list[WorkerEntry]:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(list_workers, database=opened))

    found = [entry for entry in asyncio.run(work()) if every or entry.state == HELD]
    rows = [{"worker": e.worker, "state": _state(e), "who": e.label, "mark": e.mark} for e in found]
    show(found, table(rows) or ["nobody makes ids now"], as_data=json)


def _state(entry: WorkerEntry) -> str:
    return f"{entry.state}, far ahead" if entry.ahead else entry.state
