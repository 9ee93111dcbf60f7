"""What one event costs a business transaction, and a hundred events in one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.drain import tracing
from benchmarks.harness import Case, Table, compare
from txpatterns.coordination.wakeup import Notifier
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.messages import Event, new_id
from txpatterns.outbox import Outbox
from txpatterns.outbox.schema import COLUMNS, outbox_table
from txpatterns.outbox.writer import row_of, values_of

TRANSACTIONS = 600


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str
    total: Decimal
    note: str = "n" * 300


async def one_event(url: str, driver: str, concurrency: int, rounds: int) -> Table:
    """Transactions per second with one event, beside the same transaction without."""
    database, engine = await _prepared(url, driver, concurrency)
    outbox, notifier = Outbox(database), Notifier(database.engine)
    waking = Outbox(database, on_commit=notifier.notify)
    traced = Outbox(database, hooks=tracing())

    async def plain() -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(id=new_id(), total=Decimal("9.90")))

    def with_event(by: Outbox) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            async with AsyncSession(engine) as session, session.begin():
                order = Order(id=new_id(), total=Decimal("9.90"))
                session.add(order)
                by.add(session, OrderPlaced(order_id=order.id, total=order.total))

        return run

    async def with_orm_row() -> None:
        async with AsyncSession(engine) as session, session.begin():
            order = Order(id=new_id(), total=Decimal("9.90"))
            session.add(order)
            await session.flush()
            message = outbox._message(OrderPlaced(order_id=order.id, total=order.total), new_id(), {})
            await session.execute(sa.insert(outbox_table).values(dict(zip(COLUMNS, row_of(message), strict=True))))

    async def core_plain() -> None:
        async with engine.begin() as connection:
            await connection.execute(_orders.insert().inline(), {"id": new_id(), "total": Decimal("9.90")})

    async def core_with_event() -> None:
        async with engine.begin() as connection:
            order_id = new_id()
            await connection.execute(_orders.insert().inline(), {"id": order_id, "total": Decimal("9.90")})
            outbox.add(connection, OrderPlaced(order_id=order_id, total=Decimal("9.90")))

    ready = row_of(outbox._message(OrderPlaced(order_id="order", total=Decimal("9.90")), new_id(), {}))[1:]
    into = f"INSERT INTO txp_outbox ({', '.join(COLUMNS)}) VALUES "
    into += f"({', '.join(f'${n}' for n in range(1, 10))})" if driver == "asyncpg" else f"({', '.join(['%s'] * 9)})"

    async def core_with_ready_row() -> None:
        async with engine.begin() as connection:
            await connection.execute(_orders.insert().inline(), {"id": new_id(), "total": Decimal("9.90")})
            bare: Any = (await connection.get_raw_connection()).driver_connection
            values = (new_id(), *ready)
            await (bare.execute(into, *values) if driver == "asyncpg" else bare.execute(into, values))

    goal = 0.85 if driver == "asyncpg" else 0.75
    least = "Core and a ready row through the bare driver: a second statement, nothing else"
    cases = [
        Case("ORM, no event", _rate(plain, concurrency)),
        Case("ORM and outbox.add", _rate(with_event(outbox), concurrency), "ORM, no event", goal),
        Case("ORM and outbox.add, wake-up on", _rate(with_event(waking), concurrency), "ORM, no event", goal),
        Case("ORM and outbox.add, traced", _rate(with_event(traced), concurrency), "ORM, no event"),
        Case(
            "ORM and an insert through the session, as usually done", _rate(with_orm_row, concurrency), "ORM, no event"
        ),
        Case("Core, no event", _rate(core_plain, concurrency)),
        Case(least, _rate(core_with_ready_row, concurrency), "Core, no event"),
        Case("Core and outbox.add", _rate(core_with_event, concurrency), "Core, no event", goal, also={least: None}),
    ]
    title = f"One event in a business transaction, {driver}, {concurrency} at a time"
    table = await compare(title, "transactions/s", cases, rounds)
    table.notes.append(
        "The limit is the second statement with its round trip: the line with the ready row has nothing else. "
        "`outbox.add` also makes the message, checks it, and tells the hooks and the relay."
    )
    await asyncio.to_thread(notifier.close)
    await engine.dispose()
    await database.close()
    return table


async def hundred_events(url: str, driver: str, rounds: int) -> Table:
    """Events per second when a transaction adds a hundred, beside SQLAlchemy's own executemany and a loop."""
    database, engine = await _prepared(url, driver, 1)
    outbox = Outbox(database)
    events = [OrderPlaced(order_id=f"order-{n}", total=Decimal("9.90")) for n in range(100)]

    ready = [values_of(outbox._message(event, new_id(), {})) for event in events]

    def rows() -> list[dict[str, object]]:
        return [{**row, "message_id": new_id()} for row in ready]  # encoded before: only the id has to be another

    async def added() -> None:
        async with AsyncSession(engine) as session, session.begin():
            for event in events:
                outbox.add(session, event)

    async def many() -> None:
        async with engine.begin() as connection:
            await connection.execute(outbox_table.insert().inline(), rows())

    async def loop() -> None:
        async with engine.begin() as connection:
            for row in rows():
                await connection.execute(outbox_table.insert().inline(), row)

    cases = [
        Case("executemany of ready rows, SQLAlchemy", _rate(many, 1, 30, 100)),
        Case("outbox.add, a hundred times", _rate(added, 1, 30, 100), "executemany of ready rows, SQLAlchemy", 0.8),
        Case("an insert for each, in a loop", _rate(loop, 1, 6, 100), "executemany of ready rows, SQLAlchemy"),
    ]
    table = await compare(f"A hundred events in one transaction, {driver}", "events/s", cases, rounds)
    await engine.dispose()
    await database.close()
    return table


_orders = sa.Table(
    "orders", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("total", sa.Numeric)
)


async def _prepared(url: str, driver: str, concurrency: int) -> tuple[Database, AsyncEngine]:
    address = sa.make_url(url).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(address, pool_size=max(concurrency, 1))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    database = Database(engine)
    await database.transact(create_missing)
    return database, engine


def _rate(
    work: Callable[[], Awaitable[None]], concurrency: int, times: int = TRANSACTIONS, each: int = 1
) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        left = times

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await work()

        await work()
        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return times * each / (time.perf_counter() - started)

    return run
