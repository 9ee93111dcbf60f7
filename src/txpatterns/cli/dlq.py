"""``txp dlq``: the dead letters, to look at, to send on their way again, or to give up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.audit import AuditEntry, read_audit
from txpatterns.admin.deadletters import Reader, drop, find_letter, find_letters, in_order, retry
from txpatterns.admin.matching import NAMES, conditions_of
from txpatterns.cli.loading import AppOption, DatabaseOption, JsonOption, as_named, load_app, open_tables
from txpatterns.cli.operators import deed_of, named, with_reason
from txpatterns.cli.output import DIFFERENT, examples, show, table, why
from txpatterns.cli.remains import count
from txpatterns.database import Database
from txpatterns.deadletters.letter import DeadLetter
from txpatterns.errors import ConfigurationError, LetterKept

MatchingOption = Annotated[
    str | None,
    typer.Option("--matching", metavar="WORDS", help=f"NAME:VALUE words, * for any text; names: {', '.join(NAMES)}."),
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
_NUMBER = {"min": 1, "max": 2**63 - 1, "help": "The number that `txp dlq list` shows."}
IdArgument = Annotated[int, typer.Argument(metavar="ID", **_NUMBER)]
OneArgument = Annotated[int | None, typer.Argument(metavar="[ID]", **_NUMBER)]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it is written down.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]

group = typer.Typer(no_args_is_help=True, help="Messages that were given up.")

_COLUMNS = ("id", "died_at", "consumer", "topic", "type", "key", "attempts", "reason")
_SHOWN = 20
_KNOWS = "the handlers"


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which dead letters a command is about, and how it was called."""

    one: int | None
    matching: str | None
    yes: bool
    dry_run: bool
    json: bool


@group.command("list", epilog=examples("txp dlq list --app orders:app", "txp dlq list --matching 'error:*timeout*'"))
def list_(
    matching: MatchingOption = None,
    limit: LimitOption = 50,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """List dead letters in the order in which they died. Without a consumer: it could not be published."""
    conditions = conditions_of(matching) if matching is not None else []

    async def work() -> list[DeadLetter]:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(find_letters, conditions=conditions, limit=limit))

    found = asyncio.run(work())
    where = as_named(app, database)
    more = [f"to see more: txp dlq show ID{where}; when it is mended: txp dlq retry ID{as_named(app, None)}"]
    show(found, [*table(_rows(found)), *more] if found else ["no dead letters"], as_data=json)


@group.command("show", epilog=examples("txp dlq show 7 --app orders:app", "txp dlq show 7 --json"))
def show_(
    letter_id: IdArgument, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """Show one dead letter with its last error, headers and payload, and what was done to its message before.

    Exit code 3 when it is not there (any more).
    """

    async def work() -> tuple[dict[str, object], list[AuditEntry]] | None:
        async with open_tables(app, database) as opened:
            found = await opened.read(partial(find_letter, letter_id=letter_id))
            if found is None:
                return None
            letter, message = found
            carried = {
                "headers": dict(message.headers),
                "content_type": message.content_type,
                "payload": message.payload.decode(errors="replace"),
            }
            return {**asdict(letter), **carried}, await opened.read(partial(read_audit, message_id=message.id))

    found = asyncio.run(work())
    if found is None:
        look = f"txp dlq audit{as_named(app, database)}"
        show(None, [f"there is no dead letter {letter_id} (any more; see: {look})"], as_data=json)
        raise typer.Exit(DIFFERENT)
    data, before = found
    width = max(map(len, data))
    lines = [f"{name.ljust(width)}  {value}" for name, value in data.items() if value is not None]
    lines += [f"{'before'.ljust(width)}  {_told(entry)}" for entry in before]
    show({**data, "before": before}, lines, as_data=json)


@group.command(
    "retry",
    epilog=examples(
        "txp dlq retry 7 --app orders:app", "txp dlq retry --matching 'error:*timeout*' --app orders:app --reason fixed"
    ),
)
def retry_(
    letter_id: OneArgument = None,
    matching: MatchingOption = None,
    app: AppOption = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Send dead letters on their way again, in the order of their keys: to the broker, or to their handler.

    This only puts them back, with all their attempts; a running App takes them at once. One is put back without
    a question; for --matching you are asked, or say --yes. Exit code 3 when some of them stay as they are.
    """
    place = named(app, _KNOWS)
    loaded = load_app(place)
    reader, deed = Reader(loaded.consumer.handlers, loaded.registry), deed_of(reason)
    choice = _Choice(letter_id, matching, yes or letter_id is not None, dry_run, json)
    _work_on(choice, place, lambda opened, one: retry(opened, reader, one, deed), ("put back", "retry"))


@group.command(
    "drop",
    epilog=examples(
        "txp dlq drop 7 --reason 'test order' --app orders:app", "txp dlq drop --matching 'topic:*' --reason old --yes"
    ),
)
def drop_(
    letter_id: OneArgument = None,
    matching: MatchingOption = None,
    app: AppOption = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Give dead letters up for good, and let what is parked behind them go on.

    You are asked before, or say --yes. The reason is written down, with the message's id and without its payload.
    """
    deed = with_reason(reason, "Why are they dropped?")
    choice = _Choice(letter_id, matching, yes, dry_run, json)
    _work_on(choice, named(app, _KNOWS), lambda opened, one: drop(opened, one, deed), ("dropped", "drop"))


@group.command("audit", epilog=examples("txp dlq audit --app orders:app", "txp dlq audit --limit 5 --json"))
def audit(
    limit: LimitOption = 50, app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False
) -> None:
    """List what was retried and dropped, by whom and why, the newest first."""

    async def work() -> list[AuditEntry]:
        async with open_tables(app, database) as opened:
            return await opened.read(partial(read_audit, limit=limit))

    found = asyncio.run(work())
    columns = ("done_at", "who", "action", "dead_letter", "consumer", "type", "message_id", "reason")
    rows = [{name: getattr(entry, name) for name in columns} for entry in found]
    show(found, table(rows) or ["nothing was retried or dropped"], as_data=json)


def _work_on(
    choice: _Choice,
    app: str,
    do: Callable[[Database, int], Awaitable[None]],
    words: tuple[str, str],
) -> None:
    """Choose, show and ask, then do it one by one; each is a transaction, so that an interruption loses nothing."""
    if (choice.one is None) == (choice.matching is None):
        raise typer.BadParameter("give either one ID, or --matching", param_hint="ID")
    letters = asyncio.run(_chosen(choice, app))
    if not letters:
        show([], [f"no dead letters like that (see: txp dlq list{as_named(app, None)})"], as_data=choice.json)
        raise typer.Exit(DIFFERENT)
    if choice.dry_run:
        show(letters, _preview(letters, words[1]), as_data=choice.json)
        return
    if not choice.yes and not _agreed(letters, words[1]):
        show([], ["nothing was changed"], as_data=choice.json)
        raise typer.Exit(DIFFERENT)
    kept = asyncio.run(_do_all(letters, app, do))
    done = [letter.id for letter in letters if letter.id not in kept]
    lines = [f"{words[0]}: {len(done)}" + (f" ({', '.join(map(str, done[:_SHOWN]))})" if done else "")]
    if words[1] == "retry" and done:
        lines.append(f"a running App takes them now; without one: txp run {app} --drain")
    lines += [f"{letter_id} stays: {error.message} Fix: {error.remedy}" for letter_id, error in kept.items()]
    told = [{"id": letter_id, "code": error.code, "message": error.message} for letter_id, error in kept.items()]
    if choice.one is not None and kept:
        raise kept[choice.one]
    show({"done": done, "kept": told}, lines, as_data=choice.json)
    if kept:
        raise typer.Exit(DIFFERENT)


async def _chosen(choice: _Choice, app: str) -> list[DeadLetter]:
    async with open_tables(app, None) as opened:
        if choice.matching is not None:
            found = partial(find_letters, conditions=conditions_of(choice.matching))
            return in_order(await opened.read(found))
        one = await opened.read(partial(find_letter, letter_id=choice.one or 0))
        return [] if one is None else [one[0]]


async def _do_all(
    letters: Sequence[DeadLetter], app: str, do: Callable[[Database, int], Awaitable[None]]
) -> dict[int, LetterKept]:
    kept: dict[int, LetterKept] = {}
    async with open_tables(app, None) as opened:
        for letter in letters:
            try:
                await do(opened, letter.id)
            except LetterKept as error:
                kept[letter.id] = error
    return kept


def _agreed(letters: Sequence[DeadLetter], verb: str) -> bool:
    """Show what it is about and ask. Raises ConfigurationError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{count(len(letters), 'dead letter')} would be affected, and there is nobody to ask.",
            fix=f"Look first: txp dlq {verb} ... --dry-run. Then say --yes.",
        )
    typer.echo("\n".join(_preview(letters, verb)))
    return typer.confirm("Go on?")


def _preview(letters: Sequence[DeadLetter], verb: str) -> list[str]:
    more = len(letters) - _SHOWN
    lines = [*table(_rows(letters[:_SHOWN])), *([f"... and {more} more"] if more > 0 else [])]
    return [*lines, f"to {verb}, in this order: {len(letters)}"]


def _rows(letters: Sequence[DeadLetter]) -> list[dict[str, object]]:
    rows = []
    for letter in letters:
        row = {name: getattr(letter, name) for name in _COLUMNS}
        rows.append({**row, "error": why(letter.error)})
    return rows


def _told(entry: AuditEntry) -> str:
    why = f": {entry.reason}" if entry.reason else ""
    return f"{entry.action} by {entry.who} at {entry.done_at}{why}"
