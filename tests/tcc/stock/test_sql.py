"""A stock in a database, in transactions of yours."""

from __future__ import annotations

import asyncio
import random

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tcc.stock.support import A_WHILE, Shoppers, check, metadata, open_sql, tables
from txpatterns import Database
from txpatterns.clock import SystemClock
from txpatterns.errors import NotTransactional, OutOfStock, ReservationEnded, UnknownItem
from txpatterns.tcc.stock import Level, SqlStock, StockTables
from txpatterns.tcc.stock.ledger import Verdict
from txpatterns.tcc.stock.ledger_sql import SqlLedger


def soon():
    return SystemClock().now() + A_WHILE


async def test_what_your_transaction_does_not_commit_was_never_reserved(any_database):
    """P5: reserved with the order, or neither; also confirmed and canceled."""
    async with open_sql(any_database) as stock:
        await stock.load({"A": 10})
        await stock.reserve("held", {"A": 2}, soon())
        async with stock.database.session() as session:
            within = stock.within(session)
            await within.reserve("r", {"A": 3}, soon())
            await within.confirm("held")
            await within.cancel("never")
            assert await within.levels(["A"]) == {"A": Level(5, 3, 2)}
            await session.rollback()
        assert await stock.levels(["A"]) == {"A": Level(8, 2)}
        assert await stock.reservation("r") is None
        await stock.reserve("never", {"A": 1}, soon())


async def test_a_refusal_leaves_your_transaction_as_it_was(any_database):
    """P5: whoever catches it may commit the rest; an unknown item leaves nothing under the id."""
    async with open_sql(any_database) as stock:
        await stock.load({"A": 3, "B": 5})
        async with stock.database.session() as session, session.begin():
            within = stock.within(session)
            with pytest.raises(OutOfStock):
                await within.reserve("r", {"A": 4, "B": 1}, soon())
            with pytest.raises(UnknownItem):
                await within.reserve("s", {"B": 1, "Z": 1}, soon())
            await within.reserve("t", {"B": 2}, soon())
        assert await stock.levels(["A", "B"]) == {"A": Level(3), "B": Level(3, 2)}
        await stock.load({"Z": 1})
        await stock.reserve("s", {"B": 1, "Z": 1}, soon())


def test_a_plain_session_works_alike(sync_database):
    """P5: `def` code reserves in its own transaction."""
    engine = sa.create_engine(sync_database)
    try:
        database = Database(engine)
        stock = SqlStock(database, tables)
        metadata.create_all(engine)
        with database.sync_session() as session, session.begin():
            stock.within(session).load({"A": 2})
            stock.within(session).reserve("r", {"A": 2}, soon())
        with database.sync_session() as session, session.begin():
            with pytest.raises(OutOfStock):
                stock.within(session).reserve("s", {"A": 1}, soon())
            assert stock.within(session).confirm("r") is True
            assert stock.within(session).levels(["A"]) == {"A": Level(0, 0, 2)}
        asyncio.run(database.close())
    finally:
        engine.dispose()


async def test_a_session_that_commits_each_statement_is_refused(any_database):
    """P5, H4: half a reservation would be committed."""
    async with open_sql(any_database) as stock:
        await stock.load({"A": 2})
        engine = create_async_engine(any_database, isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            with pytest.raises(NotTransactional):
                await stock.within(session).reserve("r", {"A": 1}, soon())
        await engine.dispose()
        assert await stock.levels(["A"]) == {"A": Level(2)}


@pytest.mark.server
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_fifty_who_reserve_crosswise_never_wait_for_each_other(driver, database):
    """P5, H8, H363, I27: items in any order, in transactions of yours, where a deadlock would be an error."""
    engine = create_async_engine(database.url(driver), pool_size=20, max_overflow=0, pool_timeout=60)
    async with Database(engine) as given:
        stock = SqlStock(given, tables)
        await stock.transact(metadata.create_all)
        loaded = {f"i{n}": 40 for n in range(6)}
        await stock.load(loaded)
        shoppers = Shoppers(InTransactions(stock), tuple(loaded))

        async def shop(n):
            choice = random.Random(n)
            for m in range(4):
                lines = [(item, 1) for item in choice.sample(sorted(loaded), 5)]
                await shoppers.want(f"{n}-{m}", lines, choice.choice(("buy", "keep", "return")))

        await asyncio.gather(*(shop(n) for n in range(50)))
        check(shoppers, await stock.levels(loaded), loaded)
        assert shoppers.refused > 0
    await engine.dispose()


class InTransactions:
    """Each call in a session of its own."""

    def __init__(self, stock):
        self._stock = stock

    def __getattr__(self, name):
        async def call(*given):
            async with self._stock.database.session() as session:
                try:
                    return await getattr(self._stock.within(session), name)(*given)
                finally:
                    await session.commit()

        return call


@pytest.mark.server
async def test_a_cancellation_waits_for_the_reservation_that_is_being_made(database):
    """P5, H122, H123: it decides when that has ended, committed or rolled back."""
    async with open_sql(database.url("asyncpg")) as stock:
        await stock.load({"A": 5})
        for ends, changed in (("commit", True), ("rollback", False)):
            async with stock.database.session() as session:
                await stock.within(session).reserve(ends, {"A": 2}, soon())
                canceling = asyncio.create_task(stock.cancel(ends))
                done, _ = await asyncio.wait({canceling}, timeout=0.2)
                assert not done
                await getattr(session, ends)()
                assert await canceling is changed
            with pytest.raises(ReservationEnded):
                await stock.reserve(ends, {"A": 2}, soon())
        assert await stock.levels(["A"]) == {"A": Level(5)}


async def test_the_tables_stay_where_your_metadata_has_them(database):
    """P5, H100: also when the library's own are in another schema, and a search path leads elsewhere."""
    yours = sa.MetaData(schema="shop")
    mine = StockTables(yours, "goods")
    async with Database(database.url("asyncpg"), schema="txp") as given:
        stock = SqlStock(given, mine)
        await stock.transact(lambda connection: connection.execute(sa.text("CREATE SCHEMA shop")))
        await stock.transact(yours.create_all)
        await stock.load({"A": 1})
        await stock.reserve("r", {"A": 1}, soon())
        async with given.session() as session:
            assert (await session.execute(sa.text("SELECT reserved FROM shop.goods_item"))).scalar() == 1


async def test_a_generation_begins_once(any_database):
    """P5, H360: of several who want it at the same time; what belongs to the former one is kept no more."""
    async with open_sql(any_database) as stock:
        ledger = SqlLedger(stock.database, tables)
        assert await ledger.place() == (0, 0)
        assert set(await asyncio.gather(*(ledger.begin(0) for _ in range(5)))) == {1}
        assert (await ledger.keep([], 0)).verdict is Verdict.FENCED
        assert await ledger.begin(0) == 1
        assert await ledger.begin(1) == 2
