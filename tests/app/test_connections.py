"""How many connections an App opens beside the application's own, and that neither starves the other."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, AppSettings, Event, Hooks, Transaction
from txpatterns.database.setup import create_missing
from txpatterns.hooks import on
from txpatterns.outbox.moments import Published

OWN = {"psycopg": 3, "asyncpg": 5}
"""With asyncpg the relay has two more, to read and to settle straight through the driver."""


class Base(DeclarativeBase):
    pass


class Seen(Base):
    __tablename__ = "seen"
    number: Mapped[int] = mapped_column(primary_key=True)


class Sent(Event, topic="sent", type="sent", key="key"):
    key: str
    number: int


class Told(Hooks):
    def __init__(self):
        self.sent = asyncio.Event()

    @on(Published)
    def published(self, moment):
        self.sent.set()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_parts_use_few_connections_beside_the_pool(database, driver):
    """H101: relay, leases, retries and timers share three, or five with asyncpg; handlers keep to the pool."""
    pool, most = 2, 0
    engine = create_async_engine(database.url(driver), pool_size=pool, max_overflow=0, pool_timeout=60)
    app = App("connections", engine, "memory://", settings=AppSettings(wakeups=False))
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)

    @app.on(Sent)
    async def see(event: Sent, tx: Transaction) -> None:
        tx.session.add(Seen(number=event.number))

    ours = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    )

    async with app.running():
        for number in range(100):
            async with app.session() as session, session.begin():
                app.outbox.add(session, Sent(key=str(number % 20), number=number))
            most = max(most, await app.database.read(lambda connection: connection.scalar(ours)))
        await app.drained()
        assert await app.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(Seen))) == 100
    assert 3 <= most <= pool + OWN[driver]
    await app.close()
    await engine.dispose()


async def test_an_application_that_holds_all_its_connections_does_not_stop_the_relay(database):
    """P7, H101: the relay publishes what is committed while the application's only connection is in use."""
    told = Told()
    engine = create_async_engine(database.url("asyncpg"), pool_size=1, max_overflow=0)
    app = App("connections", engine, "memory://", hooks=[told])
    await app.database.transact(create_missing)
    async with app.running(), engine.connect() as held:
        async with held.begin():
            await held.run_sync(lambda connection: app.outbox.add(connection, Sent(key="a", number=1)))
        await asyncio.wait_for(told.sent.wait(), 120)
        assert engine.pool.checkedout() == 1
    await app.close()
    await engine.dispose()
