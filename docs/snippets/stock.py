"""Goods that are set aside for a while, in a transaction of yours."""

# --8<-- [start:tables]
import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from txpatterns import Database
from txpatterns.errors import OutOfStock
from txpatterns.tcc.stock import Decision, SqlStock, StockTables, sweep


class Base(DeclarativeBase):
    pass


tables = StockTables(Base.metadata)  # stock_item, stock_reservation, stock_gate: yours, and in your migrations
engine = create_async_engine("sqlite+aiosqlite:///stock.db")
database = Database(engine)
stock = SqlStock(database, tables)
# --8<-- [end:tables]


# --8<-- [start:reserve]
async def place_order(order_id: str, lines: list[tuple[str, int]]) -> None:
    pay_by = datetime.now(UTC) + timedelta(minutes=15)
    async with database.session() as session, session.begin():
        # ... your order's own rows, in the same transaction
        await stock.within(session).reserve(order_id, lines, pay_by)


# --8<-- [end:reserve]


# --8<-- [start:pay]
async def begin_payment(order_id: str) -> None:
    await stock.prolong(order_id, datetime.now(UTC) + timedelta(minutes=30))


async def paid(order_id: str) -> None:
    await stock.confirm(order_id)


async def called_off(order_id: str) -> None:
    await stock.cancel(order_id)


# --8<-- [end:pay]


# --8<-- [start:sweep]
async def decision(order_id: str) -> Decision:
    """Ask whoever knows, such as the order's row. Only final answers: nobody may decide otherwise later."""
    return Decision.CANCEL


async def every_minute() -> None:
    swept = await sweep(stock, decision)
    print("swept:", swept.confirmed, "confirmed,", swept.canceled, "canceled,", swept.left, "left")


# --8<-- [end:sweep]


# --8<-- [start:main]
async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await stock.load({"chair": 5, "table": 1})
    await place_order("order-1", [("chair", 2), ("table", 1), ("chair", 2)])
    await place_order("order-1", [("chair", 4), ("table", 1)])  # again: nothing more is set aside
    try:
        await place_order("order-2", [("chair", 1), ("table", 1)])
    except OutOfStock as refused:
        print("too little:", refused.short)
    await begin_payment("order-1")
    await paid("order-1")
    await called_off("order-3")  # before it was placed, so it never will be
    await every_minute()
    for item, level in (await stock.levels(["chair", "table"])).items():
        print(item, level.available, level.reserved, level.sold)
    await database.close()
    await engine.dispose()


asyncio.run(main())
# --8<-- [end:main]
