"""An engine of your own for SQLite, set up as the library sets up those it makes."""

# --8<-- [start:engine]
import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from txpatterns import App, Event

engine = create_async_engine("sqlite+aiosqlite:///orders.db")


@event.listens_for(engine.sync_engine, "connect")
def set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


@event.listens_for(engine.sync_engine, "begin")
def begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


app = App("orders", database=engine)
# --8<-- [end:engine]


# --8<-- [start:run]
class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


async def main() -> None:
    await app.prepare()
    async with AsyncSession(engine) as session, session.begin():
        app.outbox.add(session, OrderPlaced(order_id="1"))
        try:
            async with session.begin_nested():
                app.outbox.add(session, OrderPlaced(order_id="2"))
                raise ValueError("the savepoint is rolled back")
        except ValueError:
            print("messages of the transaction:", len(app.outbox.pending(session)))
    async with engine.connect() as connection:
        for pragma in ("journal_mode", "synchronous"):
            print(pragma, await connection.scalar(sa.text(f"PRAGMA {pragma}")))


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
