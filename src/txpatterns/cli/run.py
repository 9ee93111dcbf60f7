"""``txp run``, ``txp relay``, ``txp consume``: the background parts of an App as a process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from txpatterns.app import App
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.cli.draining import Tally, tell
from txpatterns.cli.loading import AppArgument, JsonOption, load_app, reaching
from txpatterns.cli.output import OK, as_json, examples
from txpatterns.errors import ConfigurationError, UnsafeSettings
from txpatterns.outbox.schema import outbox_table
from txpatterns.parts import PartChoice, chosen
from txpatterns.runtime.collector import spare_what_is_loaded
from txpatterns.runtime.signals import stop_on_signals
from txpatterns.settings import BROKER_URL, DATABASE_URL

_IMPORT = "Import the modules with the handlers where the App is made, or name a module that does."

DrainOption = Annotated[
    bool, typer.Option("--drain", help="Do what is due now, and end: exit code 4 when something waits for later.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, not only what goes wrong.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run", epilog=examples("txp run orders:app", "txp run orders:app --drain"))(run)
    app.command("relay", epilog=examples("txp relay orders:app", "txp relay orders:app --drain"))(relay)
    app.command("consume", epilog=examples("txp consume orders:app", "txp consume orders:app --drain"))(consume)


def run(app: AppArgument, drain: DrainOption = False, verbose: VerboseOption = False, json: JsonOption = False) -> None:
    """Run everything of an App: relay, consumers, sagas, and what TCC transactions have left.

    Until SIGTERM or SIGINT: what is under way is finished, and the exit code is 0. On SQLite, missing tables are made.
    """
    _serve(app, PartChoice(), drain=drain, verbose=verbose, json=json)


def relay(
    app: AppArgument, drain: DrainOption = False, verbose: VerboseOption = False, json: JsonOption = False
) -> None:
    """Run only the relay of an App: it publishes what is committed. Any number may run."""
    _serve(app, PartChoice(consume=False, sagas=False, tcc=False), drain=drain, verbose=verbose, json=json)


def consume(
    app: AppArgument, drain: DrainOption = False, verbose: VerboseOption = False, json: JsonOption = False
) -> None:
    """Run only the consumers of an App: they handle what arrives. Any number may run.

    With --drain, the attempts that are due in the database are made; it does not wait for what the broker still has.
    """
    _serve(app, PartChoice(relay=False, sagas=False, tcc=False), drain=drain, verbose=verbose, json=json)


def _serve(place: str, parts: PartChoice, *, drain: bool, verbose: bool, json: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    app = load_app(place)
    consumes_alone = chosen(parts) == {"consume"}
    if consumes_alone and app.broker.capabilities.confirms_handling:
        raise UnsafeSettings(
            "On memory:// nothing arrives in a process that does not relay.",
            fix=f"txp run {place}, or name a broker that is a process of its own ({BROKER_URL}).",
        )
    if consumes_alone and not app.consumer.handlers.topics:
        raise ConfigurationError(f"{place} has no handlers, so there is nothing to consume.", fix=_IMPORT)
    code = asyncio.run(_until_stopped(app, place, parts, drain=drain, json=json))
    if code != OK:
        raise typer.Exit(code)


def _is_kept(app: App) -> bool:
    """Say what it means that there are no handlers: most likely nobody has imported their module.

    Gives whether messages are kept: on ``memory://`` they would be sent to nobody.
    """
    is_kept = isinstance(app.broker, MemoryBroker) and not app.broker.has_groups
    told = "on memory:// nothing is sent, and messages are kept" if is_kept else "it sends, and handles nothing"
    told += "; its sagas run" if app.sagas.definitions else ""
    told += "; its TCC transactions are brought to their end" if app.tcc.participants else ""
    typer.echo(f"{app.name} has no handlers here: {told}. {_IMPORT}", err=True)
    return is_kept


async def _until_stopped(app: App, place: str, parts: PartChoice, *, drain: bool, json: bool) -> int:
    tally = Tally()
    app.hooks.add(tally)
    with stop_on_signals() as stopping:
        try:
            with reaching(app.database):
                made = await app.prepare()
            is_kept = "consume" in chosen(parts) and not app.consumer.handlers.topics and _is_kept(app)
            if is_kept:
                parts = PartChoice(**parts) | {"relay": False}
            if not drain:
                spare_what_is_loaded()
            async with app.running(**parts):
                _say(app, made, json=json)
                if not drain:
                    await stopping.wait()
                elif not is_kept or app.sagas.definitions or app.tcc.participants:
                    await _first(app.drained(), stopping.wait())
                if drain and is_kept:
                    await _refuse_to_drain(app)
            return await tell(app, place, tally, json=json) if drain else OK
        finally:
            await app.close()


async def _refuse_to_drain(app: App) -> None:
    """Raise UnsafeSettings when messages wait that nobody reads: who asked to drain must not think them sent."""
    first = sa.select(outbox_table.c.position).limit(1)
    if await app.database.read(lambda connection: connection.scalar(first)) is not None:
        raise UnsafeSettings(
            "Messages wait, and nobody in this process reads memory://: sent, they would be gone.",
            fix=_IMPORT,
        )


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def _say(app: App, made: list[str], *, json: bool) -> None:
    database = repr(app.database)[len("Database(") : -1].strip("'")
    if json:
        typer.echo(as_json({"app": app.name, "database": database, "broker": app.broker_name, "made_tables": made}))
        return
    if made:
        typer.echo(f"made {len(made)} tables in {database}")
    places = {"constructor": "App(database=..., broker=...)"}
    change = ", ".join(
        dict.fromkeys(
            places.get(app.sources[part], name) for part, name in (("database", DATABASE_URL), ("broker", BROKER_URL))
        )
    )
    typer.echo(f"{app.name} runs on {database} and {app.broker_name} (to change: {change})")
