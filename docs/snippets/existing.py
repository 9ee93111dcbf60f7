"""An application that has its engines, sessions and tables already, and now sends messages."""

# --8<-- [start:app]
import asyncio
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from txpatterns import App, Event, new_id


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str
    total: Decimal


engine = create_async_engine("sqlite+aiosqlite:///orders.db")  # the engine that you have
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = App("orders", database=engine, metadata=Base.metadata)
# --8<-- [end:app]


# --8<-- [start:async]
async def place_order(session: AsyncSession, total: Decimal) -> str:
    order = Order(id=new_id(), total=total)
    session.add(order)
    app.outbox.add(session, OrderPlaced(order_id=order.id, total=total))  # sent if it commits
    return order.id


# --8<-- [end:async]

# --8<-- [start:sync]
plain_sessions = sessionmaker(sa.create_engine("sqlite:///orders.db"), expire_on_commit=False)


def place_order_in_a_thread(session: Session, total: Decimal) -> str:
    order = Order(id=new_id(), total=total)
    session.add(order)
    app.outbox.add(session, OrderPlaced(order_id=order.id, total=total))
    return order.id


# --8<-- [end:sync]


# --8<-- [start:core]
def import_order(connection: sa.Connection, total: Decimal) -> str:
    order_id = new_id()
    connection.execute(sa.insert(Order).values(id=order_id, total=total))
    app.outbox.add(connection, OrderPlaced(order_id=order_id, total=total))
    return order_id


# --8<-- [end:core]


# --8<-- [start:run]
async def main() -> None:
    await app.prepare()  # on SQLite it makes what is missing; elsewhere your migrations do
    async with sessions.begin() as session:
        await place_order(session, Decimal(10))
        print("waiting for the commit:", [message.type for message in app.outbox.pending(session)])
    with plain_sessions.begin() as session:
        place_order_in_a_thread(session, Decimal(20))
    async with engine.begin() as connection:
        await connection.run_sync(import_order, Decimal(30))
    async with sessions() as session:
        await place_order(session, Decimal(40))
        await session.rollback()  # the order and its message are gone together
    async with engine.connect() as connection:
        print("orders:", await connection.scalar(sa.text("SELECT count(*) FROM orders")))
        print("messages to send:", await connection.scalar(sa.text("SELECT count(*) FROM txp_outbox")))


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
