"""The object behind the fixture ``txp``: an App on a throw-away database, in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from txpatterns.app import App
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.engines import make_engine, prepare, sync_side
from txpatterns.database.setup import create_missing
from txpatterns.messages import Event
from txpatterns.testing import remains
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.leaks import Connections
from txpatterns.testing.rebuilding import database_like, rebuilt
from txpatterns.testing.recorder import Recorder, explain, find
from txpatterns.testing.remains import DeadLetter

E = TypeVar("E", bound=Event)

_MOMENT = timedelta(milliseconds=1)
"""SQLite's clock has milliseconds, so what is due within one is due now."""


class Txp:
    """Drives an App in a test. Nothing runs between two calls, so a test sees the same each time.

    ``clock`` moves by ``advance`` only.
    """

    def __init__(self, app: App, clock: ManualClock, recorder: Recorder) -> None:
        self.app = app
        self.clock = clock
        self._recorder = recorder

    @property
    def published(self) -> list[Event]:
        """What was published so far, in order; a message that was published again is there again."""
        return self._recorder.events

    def handled(self, handler: Callable[..., Any] | str | None = None) -> list[Event]:
        """Give the events whose effects are committed: those of one handler, or all."""
        return self._recorder.handled_by(handler)

    def assert_published(self, event: type[E], /, *, times: int | None = None, **fields: Any) -> E:
        """Check that an event of this class with these fields was published; gives the first one.

        ``times`` is how often exactly; without it, once or more. Call ``drain`` before.

        Raises:
            AssertionError: with the event that comes nearest, and where it differs.
        """
        __tracebackhide__ = True
        found = find(self.published, event, fields)
        if not found or (times is not None and len(found) != times):
            raise AssertionError(explain(self.published, event, fields, times))
        return found[0]

    def assert_not_published(self, event: type[Event], /, **fields: Any) -> None:
        """Check that no event of this class with these fields was published."""
        __tracebackhide__ = True
        found = find(self.published, event, fields)
        if found:
            raise AssertionError(f"{found[0]!r} was published")

    async def drain(self, *, within: timedelta = timedelta(seconds=10)) -> None:
        """Publish, handle and retry all that is due now, and what comes of it, until nothing is due.

        Exact: it ends when all is done and does not sleep. What waits for a later time is left; see ``advance``.

        Raises:
            AssertionError: it did not come to an end ``within`` this (real) time, with a list of what is left.
        """
        __tracebackhide__ = True
        before = asyncio.all_tasks()
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._drain()
        except TimeoutError as error:
            left = await self.app.database.read(remains.what_is_left)
            raise AssertionError("drain did not end; left are\n" + "\n".join(f"  {line}" for line in left)) from error
        leaked = asyncio.all_tasks() - before
        assert not leaked, f"tasks were left behind: {leaked}"

    async def _drain(self) -> None:
        async with self.app.running():
            while True:
                await self.app.drained()
                if self.app.consumer.handlers.topics and await self.app.consumer.retry_due():
                    continue
                due = await self.app.database.read(remains.next_due)
                if due is None or due > self.clock.now():
                    return

    async def advance(self, by: timedelta | None = None, **units: float) -> None:
        """Let time pass: ``await txp.advance(minutes=15)``. What becomes due is done at its time, in order.

        Raises:
            AssertionError: see ``drain``.
        """
        __tracebackhide__ = True
        until = self.clock.now() + (by or timedelta(**units))
        while True:
            await self.drain()
            due = await self.app.database.read(remains.next_due)
            if due is None or due > until:
                break
            self.clock.advance(max(due - self.clock.now(), timedelta(0)) + _MOMENT)
        self.clock.advance(max(until - self.clock.now(), timedelta(0)))
        await self.drain()

    async def dead_letters(self) -> list[DeadLetter]:
        """Give what was given up, the oldest first."""
        return await self.app.database.read(remains.dead_letters)


@contextmanager
def in_hand(app: App, url: str) -> Iterator[Txp]:
    """Put an App on another database and a broker of its own, for a test; it is as before afterwards.

    The App stays the same object, so code that has imported it works unchanged.

    Raises:
        AssertionError: at the end, when a connection was not given back.
    """
    clock = ManualClock()
    engine = _engine(app, url)
    connections = Connections(sync_side(engine).pool)
    recorder = Recorder(app.registry)
    schema = None if engine.dialect.name == "sqlite" else app.settings.schema
    database = database_like(app.database, engine, clock=clock, schema=schema)
    made = rebuilt(app, database, MemoryBroker(clock=clock), recorder)
    recorder.registry = made.registry  # what a handler emits is made known there
    before = dict(app.__dict__)
    app.__dict__.update(made.__dict__)
    try:
        yield Txp(app, clock, recorder)
    finally:
        app.__dict__.clear()
        app.__dict__.update(before)
    leaks = connections.leaks()
    assert not leaks, "; ".join(leaks)


def _engine(app: App, url: str) -> Any:
    """Make an engine of the App's own kind. Without a pool, so that no connection outlives its event loop."""
    if not url.startswith("sqlite"):
        return make_engine(url)
    path = url.partition("///")[2]
    plain = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool)
    prepare(plain)
    # A file has one schema, whatever those of the metadata are.
    schemas = set() if app.metadata is None else {table.schema for table in app.metadata.tables.values()}
    options = {"schema_translate_map": dict.fromkeys(schemas - {None})} if schemas - {None} else {}
    plain = plain.execution_options(**options)
    with plain.begin() as connection:
        create_missing(connection, target=app.metadata)
    if not isinstance(app.database.engine, AsyncEngine):
        return plain
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=NullPool)
    prepare(engine.sync_engine)
    return engine.execution_options(**options)
