"""What a process costs in which nothing happens: relay and consumer look for work, and keep their leases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from benchmarks.harness import Case, Sample, Table, compare
from txpatterns import App, AppSettings, Event, Transaction
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing

SETTLES, LASTS = 6.0, 15.0
"""Seconds until an App has become idle, and for which it is watched then."""
SHARE = "% of a core"
MANY = 8


class Ticked(Event, topic="ticks", type="ticked"):
    n: int


class Statements:
    """Counts what goes to the database through SQLAlchemy, which is all of it but for asyncpg."""

    def __init__(self) -> None:
        self.count = 0

    def _before(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        self.count += not statement.startswith("BEGIN")

    @contextmanager
    def counted(self) -> Iterator[None]:
        sa.event.listen(Engine, "before_cursor_execute", self._before)
        try:
            yield
        finally:
            sa.event.remove(Engine, "before_cursor_execute", self._before)


async def apps(url: str, rounds: int) -> Table:
    """Statements per second, and the CPU time of the process, on a server (``url``) and on files."""
    server = "postgresql+psycopg" + url[url.index(":") :]
    with TemporaryDirectory() as folder:
        files = [f"sqlite+aiosqlite:///{Path(folder) / str(n)}.db" for n in range(MANY)]
        cases = [
            Case("PostgreSQL, polling", _idle([server], wakeups=False)),
            Case("PostgreSQL, told by NOTIFY", _idle([server]), "PostgreSQL, polling", 0.4, most={SHARE: 1.0}),
            Case("SQLite, polling", _idle(files[:1], wakeups=False)),
            Case("SQLite, watching the file", _idle(files[:1]), "SQLite, polling", 0.4, most={SHARE: 1.0}),
            Case(f"SQLite, {MANY} Apps, each with a file", _idle(files), "SQLite, polling", most={SHARE: 2.0}),
        ]
        title = "An idle process with relay and consumer"
        return await compare(title, "statements/s", cases, rounds, lower_is_better=True)


def _idle(urls: list[str], *, wakeups: bool = True) -> Callable[[], Awaitable[Sample]]:
    async def run() -> Sample:
        broker, statements = MemoryBroker(), Statements()
        async with AsyncExitStack() as stack:
            for n, url in enumerate(urls):
                app = App(f"idle{n}", url, broker, settings=AppSettings(wakeups=wakeups))
                app.on(Ticked)(_handle)
                await app.database.transact(create_missing)
                await stack.enter_async_context(app.running())
            await asyncio.sleep(SETTLES)
            with statements.counted():
                began, used = time.perf_counter(), time.process_time()
                await asyncio.sleep(LASTS)
                seconds, share = time.perf_counter() - began, time.process_time() - used
        return Sample(statements.count / seconds, {SHARE: 100 * share / seconds})

    return run


async def _handle(event: Ticked, tx: Transaction) -> None:
    return None
