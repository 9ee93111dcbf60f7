"""A shop of two tables, whose pieces are reserved by transactions: what each test of TCC runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from txpatterns.tcc import BranchTransaction, SyncBranchTransaction, TccSettings
from txpatterns.tcc.moments import BranchRaised, TccEnded, TccNeedsAttention
from txpatterns.tcc.schema import tcc_branch_table, tcc_table

QUICK = RetryLadder((timedelta(milliseconds=1), timedelta(milliseconds=1)), jitter=0)
SOON = timedelta(milliseconds=50)
"""Longer than the waits of ``QUICK``."""

tables = sa.MetaData()
piece = sa.Table(
    "piece",
    tables,
    sa.Column("sku", sa.String(20), primary_key=True),
    sa.Column("available", sa.Integer, sa.CheckConstraint("available >= 0"), nullable=False),
    sa.Column("reserved", sa.Integer, sa.CheckConstraint("reserved >= 0"), nullable=False),
    sa.Column("sold", sa.Integer, nullable=False),
)
effect = sa.Table(
    "effect",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("what", sa.String(100), nullable=False),
)


class Held(Event, topic="held", type="held", key="sku"):
    sku: str


def moved(sku: str, **by: int) -> sa.Update:
    return sa.update(piece).where(piece.c.sku == sku).values({name: piece.c[name] + n for name, n in by.items()})


def noted(what: str) -> sa.Insert:
    return sa.insert(effect).values(what=what)


class Watch(Hooks):
    """Hears what becomes of transactions."""

    def __init__(self) -> None:
        self.raised: list[BranchRaised] = []
        self.ended: list[tuple[str, str]] = []
        self.flagged: list[TccNeedsAttention] = []

    @on(BranchRaised)
    def branch_raised(self, moment: BranchRaised) -> None:
        self.raised.append(moment)

    @on(TccEnded)
    def tcc_ended(self, moment: TccEnded) -> None:
        self.ended.append((moment.transaction_id, moment.status))

    @on(TccNeedsAttention)
    def attention(self, moment: TccNeedsAttention) -> None:
        self.flagged.append(moment)


class Shop:
    """An App with participants, and what a test asks of it."""

    def __init__(self, database: Database, settings: TccSettings | None = None) -> None:
        self.watch = Watch()
        options = AppSettings(tcc=settings or TccSettings(ladder=QUICK))
        self.app = App("shop", database, "memory://", settings=options, hooks=[self.watch])
        self.fails: dict[str, list[BaseException]] = {}
        """What a function raises instead, the first first: ``{"confirm A": [OSError()]}``."""
        self.calls: list[str] = []
        tcc = self.app.tcc

        @tcc.participant("stock")
        async def stock(tx: BranchTransaction, sku: str, quantity: int) -> str:
            await tx.session.execute(moved(sku, available=-quantity, reserved=quantity))
            await tx.session.execute(noted(f"try {sku}"))
            self._fail("try", sku)
            return f"hold {sku}"

        @stock.confirm
        async def sell(tx: BranchTransaction, sku: str, quantity: int) -> None:
            await tx.session.execute(moved(sku, reserved=-quantity, sold=quantity))
            await tx.session.execute(noted(f"confirm {sku} {tx.result}"))
            self._fail("confirm", sku)

        @stock.cancel
        async def release(tx: BranchTransaction, sku: str, quantity: int) -> None:
            await tx.session.execute(moved(sku, reserved=-quantity, available=quantity))
            await tx.session.execute(noted(f"cancel {sku} {tx.result}"))
            self._fail("cancel", sku)

        @tcc.participant("shelf")
        def shelf(tx: SyncBranchTransaction, sku: str, quantity: int) -> None:
            tx.session.execute(moved(sku, available=-quantity, reserved=quantity))
            tx.session.execute(noted(f"try {sku}"))
            self._fail("try", sku)

        @shelf.confirm
        def take(tx: SyncBranchTransaction, sku: str, quantity: int) -> None:
            tx.session.execute(moved(sku, reserved=-quantity, sold=quantity))
            tx.session.execute(noted(f"confirm {sku} {tx.result}"))
            self._fail("confirm", sku)

        @shelf.cancel
        def put_back(tx: SyncBranchTransaction, sku: str, quantity: int) -> None:
            tx.session.execute(moved(sku, reserved=-quantity, available=quantity))
            tx.session.execute(noted(f"cancel {sku} {tx.result}"))
            self._fail("cancel", sku)

        self.stock, self.shelf = stock, shelf

    def _fail(self, verb: str, sku: str) -> None:
        errors = self.fails.get(f"{verb} {sku}")
        if errors:
            raise errors.pop(0)

    async def left_trying(self, id: str = "order-1", timeout: timedelta = timedelta(minutes=15)) -> Any:
        """Try, and be gone: what a process that died leaves."""
        tcc = self.app.tcc.transaction(id, timeout=timeout)
        await tcc.__aenter__()
        await tcc.try_(self.stock, "A", 2)
        await tcc.try_(self.shelf, "B", 1)
        return tcc

    async def rest(self) -> None:
        """Bring to its end whatever is due, until nothing is for a while."""
        async with self.app.running():
            await self.app.drained()
            soon = partial(self.app.tcc.tools.store.claims.next_due, within=SOON)
            while self.app.database.clock.instant is None and await self.app.database.read(soon) is not None:
                await self.app.drained()

    async def stands(self, sku: str) -> tuple[int, int, int]:
        query = sa.select(piece.c.available, piece.c.reserved, piece.c.sold).where(piece.c.sku == sku)
        row = await self.app.database.read(lambda connection: connection.execute(query).one())
        return row.available, row.reserved, row.sold

    async def effects(self) -> list[str]:
        query = sa.select(effect.c.what).order_by(effect.c.id)
        return list(await self.app.database.read(lambda connection: connection.execute(query).scalars().all()))

    async def set(self, **values: Any) -> None:
        """Set something of all transactions."""
        await self.app.database.execute(sa.update(tcc_table).values(**values))

    async def row(self, id: str = "order-1") -> Any:
        query = sa.select(tcc_table).where(tcc_table.c.id == id)
        return await self.app.database.read(lambda connection: connection.execute(query).mappings().one())

    async def branches(self, id: str = "order-1") -> list[tuple[str, str]]:
        query = sa.select(tcc_branch_table.c.participant, tcc_branch_table.c.state)
        query = query.where(tcc_branch_table.c.xid == f"shop/{id}").order_by(tcc_branch_table.c.branch)
        return [tuple(row) for row in await self.app.database.read(lambda connection: connection.execute(query).all())]


@asynccontextmanager
async def opened(url: str, *, settings: TccSettings | None = None, **options: Any) -> AsyncIterator[Shop]:
    """Open a shop on a database that has its tables, with ten pieces of A and of B."""
    async with Database(url, **options) as database:
        await database.transact(_tables)
        yield Shop(database, settings)


def _tables(connection: sa.Connection) -> None:
    create_missing(connection)
    tables.create_all(connection)
    rows = [{"sku": sku, "available": 10, "reserved": 0, "sold": 0} for sku in "AB"]
    connection.execute(sa.insert(piece), rows)


def another(shop: Shop) -> Shop:
    """Make another process's App on the same database."""
    return Shop(shop.app.database)
