"""``txp saga``: what each saga has done and waits for, and what a person does to one that does not go on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import typer

from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_check import Checked, check_sagas
from txpatterns.admin.saga_code import SagaCode
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.admin.sagas import FoundSaga, SagaEntry, find_saga, list_sagas
from txpatterns.cli.importing import aside
from txpatterns.cli.loading import (
    AppArgument,
    AppOption,
    DatabaseOption,
    JsonOption,
    as_named,
    load_app,
    open_tables,
)
from txpatterns.cli.operators import (
    AttentionOption,
    IdArgument,
    LimitOption,
    ReasonOption,
    ValuesOption,
    deed_line,
    kept_is_told,
    named,
    with_reason,
)
from txpatterns.cli.output import DIFFERENT, examples, show, table, why
from txpatterns.cli.remains import count
from txpatterns.cli.story import lines_of, open_of, story_of
from txpatterns.errors import SagaDiverged, SagaKept
from txpatterns.sagas.diagram import diagram_of, only_list
from txpatterns.sagas.schema import Status
from txpatterns.text import one_line

TypeOption = Annotated[str | None, typer.Option("--type", metavar="APP.NAME", help="The type of the saga.")]
StatusOption = Annotated[str | None, typer.Option("--status", help=f"One of {', '.join(Status)}.")]
ValueOption = Annotated[str, typer.Option("--value", metavar="JSON", help="What the operation has come to.")]
DrawnArgument = Annotated[str | None, typer.Argument(metavar="[TYPE]", help="Which saga.")]
PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Where the operation stands: see `txp saga show`.")]

group = typer.Typer(no_args_is_help=True, help="Sagas: what they have done, and what they wait for.")

_COLUMNS = ("id", "type", "version", "status", "started_at", "due_at")
_KNOWS = "the sagas' code"
_WHY = "Why is that done?"


@dataclass(frozen=True, slots=True)
class _Wish:
    """Which saga a command does something to, and how it was called."""

    saga_id: str
    type: str | None
    deed: Deed
    app: str | None
    database: str | None
    json: bool


@group.command("list", epilog=examples("txp saga list --app orders:app", "txp saga list --attention --json"))
def list_(
    type: TypeOption = None,
    status: StatusOption = None,
    attention: AttentionOption = False,
    limit: LimitOption = 50,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """List the sagas that have not ended: first those that a person should look at, then the oldest first.

    Those that have ended are listed with --status completed, or compensated.
    """
    if status is not None and status not in list(Status):
        raise typer.BadParameter(f"one of {', '.join(Status)}", param_hint="--status")

    async def work() -> list[SagaEntry]:
        async with open_tables(app, database) as opened:
            find = partial(list_sagas, database=opened, type=type, status=status, flagged=attention, limit=limit)
            return await opened.read(find)

    found = asyncio.run(work())
    more = f"to see more: txp saga show ID{as_named(app, database)}"
    show(found, [*table(_rows(found)), more] if found else ["no sagas like that"], as_data=json)


@group.command(
    "show", epilog=examples("txp saga show order-7 --app orders:app", "txp saga show order-7 --values --json")
)
def show_(
    saga_id: IdArgument,
    type: TypeOption = None,
    values: ValuesOption = False,
    app: AppOption = None,
    database: DatabaseOption = None,
    json: JsonOption = False,
) -> None:
    """Show where one saga stands, what has happened in it, what it waits for, and what operators did to it.

    With an App its code is asked what it waits for; else the journal alone. --type says which saga, where several types
    have one with this id. Exit code 3 when it is not there.
    """

    async def work() -> tuple[FoundSaga | None, Mapping[str, str] | None]:
        async with open_tables(app, database) as opened:
            found = await opened.read(partial(find_saga, database=opened, id=saga_id, type=type))
            if found is None or app is None:
                return found, None
            stood = found.stood
            return found, await _code(app).waits_for(stood.saga, stood.entries, stood.now, opened.clock)

    with aside():
        found, code = asyncio.run(work())
    if found is None:
        look = f"txp saga list{as_named(app, database)}"
        show(None, [f"there is no saga {saga_id} (see: {look})"], as_data=json)
        raise typer.Exit(DIFFERENT)
    story = story_of(found.stood.entries, values=values)
    goes_on, others = _goes_on(found.entry), found.relations.waits
    opened = [] if found.entry.ended_at else open_of(found.stood.entries, goes_on=goes_on, code=code, others=others)
    kept = {"parent": found.relations.parent, "holds": "; ".join(found.relations.holds) or None}
    kept |= {"args": found.stood.saga.args, "result": found.result} if values else {}
    data = {**asdict(found.entry), **kept, "story": story, "open": opened, "deeds": found.deeds}
    head = {name: value for name, value in {**asdict(found.entry), **kept}.items() if value is not None}
    width = max(map(len, head))
    lines = [f"{name.ljust(width)}  {one_line(str(value), 2000)}" for name, value in head.items()]
    if found.entry.run > 1:
        before = count(found.entry.run - 1, "run")
        lines.append(f"it has begun anew: {before} came before this one, whose journals are kept")
    show(data, [*lines, *lines_of(story, opened), *(deed_line(deed, deed.path) for deed in found.deeds)], as_data=json)


def _add(verb: str, act: Callable[[SagaInHand], Awaitable[None]], help: str, *shown: str) -> None:
    """Add a command that does something to a saga as a whole."""

    @group.command(verb, help=help, epilog=examples(*shown))
    def command(
        saga_id: IdArgument,
        reason: ReasonOption = None,
        type: TypeOption = None,
        app: AppOption = None,
        database: DatabaseOption = None,
        json: JsonOption = False,
    ) -> None:
        deed = with_reason(reason, _WHY)
        _do(verb, _Wish(saga_id, type, deed, app, database, json), act)


_add(
    "retry",
    SagaInHand.retry,
    """Let a saga go on now, with the code that is there: whatever waits for another attempt has it at once.

    Exit code 3 when it stays as it is, because it has ended or a process runs it.
    """,
    "txp saga retry order-7 --reason 'bank is back' --app orders:app",
    "txp saga retry order-7 --reason mended",
)
_add(
    "cancel",
    SagaInHand.cancel,
    """Undo a saga now, wherever it is: what it has done is undone, the last first; and what may be under way, later.

    Also one that needs a person. Exit code 3 when it stays as it is: it has ended, is behind its pivot, or a process
    runs it.
    """,
    "txp saga cancel order-7 --reason 'customer gone' --app orders:app",
    "txp saga cancel order-7 --reason fraud",
)
_add(
    "compensate",
    SagaInHand.compensate,
    """Undo a saga on purpose, also one that has completed: what it did is undone, the last first.

    What it has sent stays sent, and whoever was given its result is not told. Exit code 3 when it stays as it is: it is
    behind its pivot, is undone already, was started by another saga, or a process runs it.
    """,
    "txp saga compensate order-7 --reason 'wrong price' --app orders:app",
    "txp saga compensate order-7 --reason recalled",
)


@group.command(
    "resolve",
    epilog=examples(
        "txp saga resolve order-7 2 --value '\"P-11\"' --reason 'seen at the bank' --app orders:app",
        "txp saga resolve order-7 3 --value null --reason 'no need to wait'",
    ),
)
def resolve_(
    saga_id: IdArgument,
    path: PathArgument,
    value: ValueOption,
    reason: ReasonOption = None,
    type: TypeOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Tell a saga what an operation has come to that it waits for, as if it had ended with this value.

    For a call of which nobody knows whether it has had its effect, and for a step that you have done by hand. A value
    that is none of its type is refused. A sleep is ended with null. Exit code 3 when the saga stays as it is.
    """
    deed, place = with_reason(reason, _WHY), named(app, _KNOWS)
    code = _code(place)
    wish = _Wish(saga_id, type, deed, place, None, json)
    _do("resolve", wish, lambda saga: saga.resolve(code, path, value))


@group.command(
    "skip",
    epilog=examples(
        "txp saga skip order-7 2 --reason 'shop is closed' --app orders:app",
        "txp saga skip order-7 2 --reason 'refunded by hand'",
    ),
)
def skip_(
    saga_id: IdArgument,
    path: PathArgument,
    reason: ReasonOption = None,
    type: TypeOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Tell a saga that an operation has failed, without any effect: its code is told StepFailed.

    Of a saga that is being undone, PATH is what is undone next: it counts as undone. Exit code 3 when the saga stays
    as it is.
    """
    deed, place = with_reason(reason, _WHY), named(app, _KNOWS)
    code = _code(place)
    wish = _Wish(saga_id, type, deed, place, None, json)
    _do("skip", wish, lambda saga: saga.skip(code, path))


@group.command("check", epilog=examples("txp saga check orders:app", "txp saga check orders:app --json"))
def check_(app: AppArgument, json: JsonOption = False) -> None:
    """Replay the journals of all sagas that have not ended against the code of an App: before it is deployed.

    Nothing is written. Exit code 3 when one of them does not fit, or nobody in this App serves it.
    """
    loaded = load_app(app)

    async def work() -> Checked:
        async with open_tables(app, None) as opened:
            return await check_sagas(opened, loaded.name, loaded.sagas.definitions)

    with aside():
        checked = asyncio.run(work())
    fit = checked.replayed - sum(misfit.is_served for misfit in checked.misfits)
    rows = [{**asdict(misfit), "why": one_line(misfit.why, 300)} for misfit in checked.misfits]
    show(checked, [*table(rows), f"{count(fit, 'saga')} fit this code; {len(rows)} do not"], as_data=json)
    if checked.misfits:
        raise typer.Exit(DIFFERENT)


@group.command(
    "diagram", epilog=examples("txp saga diagram shop:app checkout > checkout.mmd", "txp saga diagram shop:app --json")
)
def diagram_(app: AppArgument, type: DrawnArgument = None, json: JsonOption = False) -> None:
    """Draw a saga that is a list of steps as a Mermaid flowchart: its steps, what undoes them, and how it may end.

    TYPE is its name, with or without that of the App; it may be left out where the App has only one list. Of several
    versions the latest is drawn. A saga that is code is refused. Exit code 3 when there is no such saga.
    """
    definitions = load_app(app).sagas.definitions
    found = definitions.latest(type) if type is not None else only_list(definitions)
    if found is None:
        known = ", ".join(sorted({each.type for each in definitions})) or "none"
        show(None, [f"there is no saga {type}; there are: {known}"], as_data=json)
        raise typer.Exit(DIFFERENT)
    drawn = diagram_of(found)
    show({"type": found.type, "version": found.options.version, "mermaid": drawn}, [drawn], as_data=json)


def _do(verb: str, wish: _Wish, act: Callable[[SagaInHand], Awaitable[None]]) -> None:
    """Do something to a saga, and say so; exit code 3 where it stays as it is."""

    async def work() -> None:
        async with open_tables(wish.app, wish.database) as opened:
            await act(SagaInHand(opened, wish.saga_id, wish.type, wish.deed))

    with kept_is_told(SagaKept, SagaDiverged):
        asyncio.run(work())
    goes = "is undone now" if verb in ("cancel", "compensate") else "goes on now"
    show({"done": verb, "id": wish.saga_id}, [f"{wish.saga_id} {goes}: a running App takes it"], as_data=wish.json)


def _goes_on(entry: SagaEntry) -> bool:
    """Whether a saga goes on without a person, before its deadline."""
    is_left = entry.attention and entry.due_at and entry.deadline_at and entry.due_at >= entry.deadline_at
    return (entry.due_at is not None and not is_left) or entry.status == Status.WAITING


def _code(place: str) -> SagaCode:
    loaded = load_app(place)
    return SagaCode(loaded.sagas.definitions, loaded.outbox)


def _rows(found: list[SagaEntry]) -> list[dict[str, object]]:
    rows = []
    for entry in found:
        row = {name: getattr(entry, name) for name in _COLUMNS}
        rows.append({**row, "run": "now" if entry.is_run else None, "attention": why(entry.attention)})
    return rows
