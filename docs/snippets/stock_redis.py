"""The same in Redis, in front of a ledger in a database."""

# --8<-- [start:open]
import asyncio
import os
from datetime import UTC, datetime, timedelta

from sqlalchemy import MetaData

from txpatterns import Database
from txpatterns.errors import StockUnavailable
from txpatterns.tcc.stock import StockTables
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock

metadata = MetaData()  # or your Base.metadata
tables = StockTables(metadata)
database = Database(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///ledger.db"))
ledger = SqlLedger(database, tables)


async def serve() -> None:
    async with RedisStock(os.environ["REDIS_URL"], ledger) as stock:  # waits until Redis has what the ledger has
        await stock.load({"ticket": 100})
        await sell(stock)
        print((await stock.levels(["ticket"]))["ticket"])


# --8<-- [end:open]


# --8<-- [start:repeat]
async def sell(stock: RedisStock) -> None:
    pay_by = datetime.now(UTC) + timedelta(minutes=15)
    for _ in range(100):
        try:
            await stock.reserve("order-1", {"ticket": 2}, pay_by)
            break
        except StockUnavailable:
            await asyncio.sleep(0.1)  # the same id again: it happens once
    await stock.confirm("order-1")


# --8<-- [end:repeat]


async def main() -> None:
    await ledger.stock.transact(metadata.create_all)  # your migrations do that
    await serve()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
