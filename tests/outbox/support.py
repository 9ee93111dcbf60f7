"""What the tests of outbox and relay share: events, a table of business rows, and reading what was written."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from txpatterns.clock import SystemClock
from txpatterns.database import Database
from txpatterns.database.engines import prepare, sync_side
from txpatterns.database.setup import create_missing
from txpatterns.messages import BigInt, Event
from txpatterns.outbox import Outbox
from txpatterns.outbox.schema import outbox_table, waiting_table


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str
    n: int = 0


class Strict(Event, topic="orders", type="order.strict", key="order_id", order="strict"):
    order_id: str
    n: int = 0


class Pictured(Event, topic="orders", type="order.pictured", key="order_id"):
    order_id: str
    picture: str


class Keyless(Event, topic="news", type="news.told"):
    n: int = 0


class Money(Event, topic="money", type="money.moved"):
    amount: Decimal = Decimal(0)
    number: BigInt = 0
    plain: int = 0
    rate: float = 0.0
    text: str = ""
    tags: list[str] = []  # noqa: RUF012 - pydantic copies it


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


def prepare_tables(connection: Connection) -> None:
    create_missing(connection)
    Base.metadata.create_all(connection)


@asynccontextmanager
async def open_database(url: str | AsyncEngine | Engine, **given: Any) -> AsyncIterator[Database]:
    database = Database(url, **given)
    try:
        await database.transact(prepare_tables)
        yield database
    finally:
        await database.close()


@contextmanager
def open_sync(url: str) -> Iterator[tuple[Engine, Outbox]]:
    engine = sa.create_engine(url)
    prepare(engine)
    database = Database(engine)
    try:
        with engine.begin() as connection:
            prepare_tables(connection)
        yield engine, Outbox(database)
    finally:
        engine.dispose()
        sync_side(database._own).dispose()


def session_of(database: Database, **given: Any) -> AsyncSession:
    assert isinstance(database.engine, AsyncEngine)
    return AsyncSession(database.engine, expire_on_commit=False, **given)


ROWS = sa.select(outbox_table).order_by(outbox_table.c.position)
WAITING = sa.select(waiting_table).order_by(waiting_table.c.position, waiting_table.c.message_id)
ORDERS = sa.select(Order.__table__.c.id)


async def rows(database: Database, query: sa.Select[Any] = ROWS) -> list[sa.Row[Any]]:
    return await database.read(lambda connection: list(connection.execute(query)))


async def ids(database: Database) -> list[str]:
    return [row.message_id for row in await rows(database)]


async def orders(database: Database) -> set[str]:
    return {row.id for row in await rows(database, ORDERS)}


def sync_ids(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [row.message_id for row in connection.execute(ROWS)]


def sync_orders(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return {row.id for row in connection.execute(ORDERS)}


def sessions_of(engine: Engine, **given: Any) -> Session:
    return Session(engine, expire_on_commit=False, **given)


class OffsetClock(SystemClock):
    """The real clock, moved ahead by hand; the database's clock goes along."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.offset

    def monotonic(self) -> float:
        return super().monotonic() + self.offset.total_seconds()
