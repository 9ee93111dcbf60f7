"""Putting Apps into the hands of a test, and back again as if nothing had been."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Unpack

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from txpatterns.app import App
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.clock import SystemClock
from txpatterns.database import Database
from txpatterns.database.engines import AnyEngine, sync_side
from txpatterns.errors import ConfigurationError
from txpatterns.parts import PartChoice
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.deaths import Deaths, MortalDefinitions
from txpatterns.testing.harness import Txp
from txpatterns.testing.homes import Given, Home, Homes, engine_of
from txpatterns.testing.rebuilding import rebuilt, take_sessions
from txpatterns.testing.recorder import Recorder, Story

Sessions = sessionmaker[Any] | async_sessionmaker[Any]

_PARTS = ("database", "registry", "outbox", "inbox", "sagas", "tcc")
_ASKS = ("read", "transact")
_STOP_WITHIN = timedelta(seconds=1)
"""Real time. A drain that ends by itself leaves nothing under way; one that does not shall fail soon."""


@contextmanager
def in_hand(
    apps: Sequence[App],
    homes: Homes,
    *,
    database: Given | Mapping[str, Given] | None = None,
    sessions: Sequence[Sessions] = (),
) -> Iterator[Txp]:
    """Put Apps on other databases and a broker of their own, for a test; they are as before afterwards.

    Each stays the same object with the same parts, so code that has imported it works unchanged. ``database`` names
    one, or one for each App by its name; left out, each has a SQLite file of its own. ``sessions`` are the
    application's own sessionmakers, which make sessions of the test's database meanwhile.

    Raises:
        AssertionError: at the end, when a connection was not given back, or a saga is open.
    """
    clock, story, deaths = ManualClock(), Story(), Deaths()
    broker = MemoryBroker(max_payload=_smallest_payload(apps))
    own = [app.database.engine for app in apps]
    places = [
        homes.of(app.database.engine, number, _of(app, database), app.settings.schema)
        for number, app in enumerate(apps)
    ]
    txp = Txp(apps, clock, broker, story, deaths)
    leaks: list[str] = []
    with ExitStack() as hands:
        for home in dict.fromkeys(places):
            metadata = tuple(app.metadata for app, place in zip(apps, places, strict=True) if place is home)
            hands.enter_context(_entered(home, metadata, txp, leaks))
        for app, home in zip(apps, places, strict=True):
            hands.enter_context(_replaced(app, home.database, broker, story, txp, deaths))
        for each in sessions:
            hands.enter_context(_bound(each, own, [home.database for home in places]))
        yield txp
        leaks += txp.left_behind()
    assert not leaks, "; ".join(leaks)


@contextmanager
def _entered(home: Home, metadata: Sequence[Any], txp: Txp, leaks: list[str]) -> Iterator[None]:
    home.enter(tuple(metadata))
    home.database.clock = txp.clock
    own = vars(home.database)  # of this one object, whoever holds it
    own.update({name: _closing(home.database, name, txp) for name in _ASKS})
    try:
        yield
    finally:
        for name in _ASKS:
            del own[name]
        home.database.clock = SystemClock()
        leaks += home.leave()


def _closing(database: Database, name: str, txp: Txp) -> Callable[..., Awaitable[Any]]:
    """Let what a test asks for between two runs, by a saga's handle for example, leave no connection of ours open.

    The next test has another file of this name, and another event loop.
    """
    method = getattr(Database, name)

    async def ask(*arguments: Any, **options: Any) -> Any:
        try:
            return await method(database, *arguments, **options)
        finally:
            if not txp.is_running:
                await database.close()

    return ask


@contextmanager
def _replaced(
    app: App, database: Database, broker: MemoryBroker, story: Story, txp: Txp, deaths: Deaths
) -> Iterator[None]:
    """Let an App and its parts be those of another one: they share its state, whoever holds them."""
    recorder = Recorder(story, app.registry)
    settings = replace(app.settings, stop_within=_STOP_WITHIN, wakeups=False)
    settings = replace(settings, consumer=replace(settings.consumer, stop_within=_STOP_WITHIN))
    settings = replace(settings, sagas=replace(settings.sagas, stop_within=_STOP_WITHIN))
    settings = replace(settings, tcc=replace(settings.tcc, stop_within=_STOP_WITHIN))
    take_sessions(database, app.database)
    made = rebuilt(app, database, broker, recorder, deaths, settings=settings)
    mortal = MortalDefinitions(app.name, deaths)
    mortal.take_in(made.sagas.definitions)
    made.sagas.definitions = mortal
    recorder.registry = made.registry  # what a handler emits is made known there
    # Nothing runs between two calls of the test, whoever starts it: a lifespan, a worker, the test itself.
    vars(made).update(running=partial(_at_rest, app), drained=txp.drain)
    for name, value in vars(app).items():
        vars(made).setdefault(name, value)
    pairs: list[tuple[Any, Any]] = [(getattr(app, name), getattr(made, name)) for name in _PARTS]
    before = [(part, part.__dict__) for part, _ in [*pairs, (app, made)]]
    for part, its in [*pairs, (app, made)]:
        part.__dict__ = its.__dict__
    try:
        yield
    finally:
        for part, former in before:
            part.__dict__ = former


@asynccontextmanager
async def _at_rest(app: App, **_parts: Unpack[PartChoice]) -> AsyncIterator[App]:
    async with app:
        yield app


@contextmanager
def _bound(sessions: Sessions, own: Sequence[AnyEngine], databases: Sequence[Database]) -> Iterator[None]:
    """Let a sessionmaker make sessions of the database in which the App is that has its engine."""
    before = engine_of(sessions)
    urls = [sync_side(engine).url for engine in own]
    matching = [number for number, engine in enumerate(own) if sync_side(engine) is sync_side(before)]
    matching += [number for number, url in enumerate(urls) if url.database == sync_side(before).url.database]
    if not matching and len(own) > 1:
        raise ConfigurationError(
            f"{sessions!r} has the engine of no App of this test.", fix="Make it with the engine that the App has."
        )
    database = databases[matching[0] if matching else 0]
    asynchronous = isinstance(sessions, async_sessionmaker)
    if asynchronous and not isinstance(database.engine, AsyncEngine):
        raise ConfigurationError("The App has a plain engine.", fix="Give the App the engine of the sessionmaker.")
    sessions.configure(bind=database.engine if asynchronous else database.sync_engine)
    try:
        yield
    finally:
        sessions.configure(bind=before)


def _of(app: App, database: Given | Mapping[str, Given] | None) -> Given | None:
    if not isinstance(database, Mapping):
        return database
    if app.name not in database:
        raise ConfigurationError(f"txp_database names no database for {app.name!r}.", fix="One for each App, by name.")
    return database[app.name]


def _smallest_payload(apps: Sequence[App]) -> int | None:
    return min((limit for app in apps if (limit := app.broker.capabilities.max_payload) is not None), default=None)
