"""``txp tcc``: where each TCC transaction stands, and what a person does to one that does not come to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.tcc import FoundTcc, TccEntry, TccInHand, find_tcc, list_tcc
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, as_named, open_tables
from txpatterns.cli.operators import (
    AttentionOption,
    IdArgument,
    LimitOption,
    ReasonOption,
    ValuesOption,
    deed_line,
    kept_is_told,
    with_reason,
)
from txpatterns.cli.output import DIFFERENT, examples, show, table, why
from txpatterns.errors import TccKept
from txpatterns.tcc.schema import Status
from txpatterns.text import one_line

OfOption = Annotated[str | None, typer.Option("--of", metavar="APP", help="The name of the App that has begun it.")]
StatusOption = Annotated[str | None, typer.Option("--status", help=f"One of {', '.join(Status)}.")]
BranchArgument = Annotated[str, typer.Argument(metavar="BRANCH", help="Its number: see `txp tcc show`.")]

group = typer.Typer(no_args_is_help=True, help="TCC transactions: what was tried, and what is left to be done.")

_COLUMNS = ("id", "app", "status", "started_at", "expires_at", "due_at")
_VALUES = ("args", "result")
_WHY = "Why is that done?"


@group.command("list", epilog=examples("txp tcc list --app orders:app", "txp tcc list --attention --json"))
def list_(
    status: StatusOption = None,
    attention: AttentionOption = False,
    limit: LimitOption = 50,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """List the transactions that have not ended: first those that a person should look at, then the oldest first.

    Those that have ended are listed with --status confirmed, or cancelled.
    """
    if status is not None and status not in list(Status):
        raise typer.BadParameter(f"one of {', '.join(Status)}", param_hint="--status")

    async def work() -> list[TccEntry]:
        async with open_tables(app, database) as opened:
            find = partial(list_tcc, database=opened, status=status, flagged=attention, limit=limit)
            return await opened.read(find)

    found = asyncio.run(work())
    rows = []
    for entry in found:
        row = {name: getattr(entry, name) for name in _COLUMNS}
        rows.append({**row, "run": "now" if entry.is_run else None, "attention": why(entry.attention)})
    more = f"to see more: txp tcc show ID{as_named(app, database)}"
    show(found, [*table(rows), more] if found else ["no transactions like that"], as_data=json)


@group.command("show", epilog=examples("txp tcc show order-7 --app orders:app", "txp tcc show order-7 --values --json"))
def show_(
    tcc_id: IdArgument,
    of: OfOption = None,
    values: ValuesOption = False,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """Show where one transaction stands, each of its branches, and what operators did to it.

    --of says whose it is, where several Apps in one database have one with this id. Exit code 3 when it is not there.
    """

    async def work() -> FoundTcc | None:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(find_tcc, database=opened, id=tcc_id, app=of))

    found = asyncio.run(work())
    if found is None:
        look = f"txp tcc list{as_named(app, database)}"
        show(None, [f"there is no transaction {tcc_id} (see: {look})"], as_data=json)
        raise typer.Exit(DIFFERENT)
    hidden = () if values else _VALUES
    branches = [{name: value for name, value in asdict(each).items() if name not in hidden} for each in found.branches]
    head = {name: value for name, value in asdict(found.entry).items() if value is not None}
    width = max(map(len, head))
    lines = [f"{name.ljust(width)}  {one_line(str(value), 2000)}" for name, value in head.items()]
    shown = [{**each, "error": why(each["error"])} for each in branches]
    data = {**asdict(found.entry), "branches": branches, "deeds": found.deeds}
    show(data, [*lines, *table(shown), *(deed_line(deed, deed.branch) for deed in found.deeds)], as_data=json)


@group.command(
    "retry",
    epilog=examples(
        "txp tcc retry order-7 --reason 'bank is back' --app orders:app", "txp tcc retry order-7 --reason mended"
    ),
)
def retry_(
    tcc_id: IdArgument,
    reason: ReasonOption = None,
    of: OfOption = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """Let a transaction be gone on with now: what failed to confirm or to cancel is tried again at once.

    One that still tries is cancelled. Exit code 3 when it stays as it is, because it has ended or a process goes on
    with it.
    """
    _do("retry", tcc_id, TccInHand.retry, (reason, of, app, database), json=json)


@group.command(
    "resolve",
    epilog=examples(
        "txp tcc resolve order-7 2 --reason 'sold by hand' --app orders:app",
        "txp tcc resolve order-7 1 --reason 'shop is gone'",
    ),
)
def resolve_(
    tcc_id: IdArgument,
    branch: BranchArgument,
    reason: ReasonOption = None,
    of: OfOption = None,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """Say that a branch is confirmed, or cancelled, as its transaction is decided: you have done it by hand.

    Its participant is asked no more. Exit code 3 when the transaction stays as it is.
    """
    _do("resolve", tcc_id, lambda tcc: tcc.resolve(branch), (reason, of, app, database), json=json)


def _do(
    verb: str,
    tcc_id: str,
    act: Callable[[TccInHand], Awaitable[None]],
    wish: tuple[str | None, str | None, str | None, str | None],
    *,
    json: bool,
) -> None:
    """Do something to a transaction, and say so; exit code 3 where it stays as it is."""
    reason, of, app, database = wish
    deed = with_reason(reason, _WHY)

    async def work() -> None:
        async with open_tables(app, database) as opened:
            await act(TccInHand(opened, tcc_id, of, deed))

    with kept_is_told(TccKept):
        asyncio.run(work())
    show({"done": verb, "id": tcc_id}, [f"{tcc_id} goes on now: a running App takes it"], as_data=json)
