"""A shop of one table, whose orders are sagas: what each test of the engine runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from txpatterns import App, AppSettings, Database
from txpatterns.database.setup import create_missing
from txpatterns.hooks import Hooks, on
from txpatterns.messages import Event
from txpatterns.retries import RetryLadder
from txpatterns.sagas import Handle, SagaSettings, StepTransaction, SyncStepTransaction
from txpatterns.sagas.facts import Fact, read
from txpatterns.sagas.moments import SagaNeedsAttention, StepDone
from txpatterns.sagas.schema import saga_journal_table, saga_table
from txpatterns.sagas.store import SagaStore

QUICK = RetryLadder((timedelta(milliseconds=1), timedelta(milliseconds=1)), jitter=0)
PATIENCE = timedelta(seconds=120)
_SOON = timedelta(milliseconds=50)
"""Longer than the waits of ``QUICK``."""

tables = sa.MetaData()
effect = sa.Table(
    "effect",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("what", sa.String(100), nullable=False),
)


class Told(Event, topic="told", type="told", key="what"):
    what: str


class Declined(Exception):
    """The bank says no."""

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self.amount = amount


async def reserve(tx: StepTransaction, sku: str) -> str:
    await tx.session.execute(sa.insert(effect).values(what=f"reserve {sku}"))
    return f"hold {sku}"


async def release(tx: StepTransaction, sku: str) -> None:
    await tx.session.execute(sa.insert(effect).values(what=f"release {sku}"))


def pack(tx: SyncStepTransaction, sku: str) -> str:
    tx.session.execute(sa.insert(effect).values(what=f"pack {sku}"))
    return f"box {sku}"


def unpack(tx: SyncStepTransaction, sku: str) -> None:
    tx.session.execute(sa.insert(effect).values(what=f"unpack {sku}"))


async def refuse(tx: StepTransaction, amount: int) -> str:
    await tx.session.execute(sa.insert(effect).values(what=f"refuse {amount}"))
    raise Declined(amount)


class Watch(Hooks):
    """Hears when a step has its effect, and when a person is needed."""

    def __init__(self) -> None:
        self.done, self.flagged = asyncio.Event(), asyncio.Event()

    @on(StepDone)
    def step(self, _: StepDone) -> None:
        self.done.set()

    @on(SagaNeedsAttention)
    def attention(self, _: SagaNeedsAttention) -> None:
        self.flagged.set()


class Shop:
    """An App with sagas, and what a test asks of it."""

    def __init__(
        self, database: Database, settings: SagaSettings | None = None, listeners: Sequence[Hooks] = ()
    ) -> None:
        self.watch = Watch()
        options = AppSettings(sagas=settings or SagaSettings())
        self.app = App("shop", database, "memory://", settings=options, hooks=[self.watch, *listeners])

    async def start(self, saga: Callable[..., Any], *args: Any, id: str = "order-1") -> Handle[Any]:
        async with self.app.transaction() as session:
            return self.app.sagas.start(session, saga, *args, id=id)

    async def run(self, saga: Callable[..., Any], *args: Any, id: str = "order-1") -> Any:
        """Start a saga and run it to its end; gives its result, or raises SagaFailed."""
        handle = await self.start(saga, *args, id=id)
        async with self.app.running():
            return await handle.result(timeout=PATIENCE)

    async def rest(self) -> None:
        """Run whatever is due, until nothing is for a while; with a clock that stands, until nothing is now."""
        async with self.app.running():
            await self.app.drained()
            while self.app.database.clock.instant is None and await self._is_due_soon():
                await self.app.drained()

    async def _is_due_soon(self) -> bool:
        """Whether there is more to do soon, be it claimed already or not."""
        known, database = self.app.sagas.definitions.known(), self.app.database
        soon = await database.moment() + _SOON
        return await database.read(partial(SagaStore(database).has_due, known=known, moment=soon))

    async def effects(self) -> list[str]:
        query = sa.select(effect.c.what).order_by(effect.c.id)
        return list(await self.app.database.read(lambda connection: connection.execute(query).scalars().all()))

    async def row(self, id: str = "order-1") -> Any:
        query = sa.select(saga_table).where(saga_table.c.id == id)
        return await self.app.database.read(lambda connection: connection.execute(query).mappings().one())

    async def rows(self, id: str = "order-1") -> list[int]:
        """Give the numbers of a journal's rows."""
        journal = saga_journal_table.c
        query = sa.select(journal.n).join(saga_table, saga_table.c.number == journal.saga)
        query = query.where(saga_table.c.id == id, journal.run == saga_table.c.run).order_by(journal.n)
        return list(await self.app.database.read(lambda connection: connection.execute(query).scalars().all()))

    async def facts(self, id: str = "order-1") -> list[Fact]:
        query = (
            sa.select(saga_journal_table.c.facts)
            .join(saga_table, saga_table.c.number == saga_journal_table.c.saga)
            .where(saga_table.c.id == id)
            .order_by(saga_journal_table.c.run, saga_journal_table.c.n)
        )
        texts = await self.app.database.read(lambda connection: connection.execute(query).scalars().all())
        return [fact for text in texts for fact in read(text)]


@asynccontextmanager
async def opened(url: str, *, settings: SagaSettings | None = None, **options: Any) -> AsyncIterator[Shop]:
    """Open a shop on a database that has its tables."""
    async with Database(url, **options) as database:
        await database.transact(_tables)
        yield Shop(database, settings)


def _tables(connection: sa.Connection) -> None:
    create_missing(connection)
    tables.create_all(connection)


def another(shop: Shop) -> Shop:
    """Make another process's App on the same database, with sagas of its own."""
    return Shop(shop.app.database)


def saga_of(shop: Shop, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Register a saga whose steps wait for next to nothing between their attempts."""
    return shop.app.saga("order", **{"retry": QUICK, "errors": [Declined], **options})(function)
