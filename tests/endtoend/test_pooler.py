"""Behind PgBouncer in transaction mode, where no two statements need share a connection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from endtoend import application
from rig.servers.pgbouncer import PgBouncer
from rig.servers.postgres import Database as PostgresDatabase
from txpatterns import App, AppSettings, MemoryBroker
from txpatterns.coordination import Leases
from txpatterns.database import Database
from txpatterns.database.setup import create_missing


def asyncpg_engine(url: str) -> AsyncEngine:
    unnamed = {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
    }
    return create_async_engine(url, connect_args=unnamed)


def psycopg_engine(url: str) -> AsyncEngine:
    return create_async_engine(url, connect_args={"prepare_threshold": None})


@pytest.mark.server
@pytest.mark.parametrize(
    ("driver", "engine"),
    [pytest.param("asyncpg", asyncpg_engine, id="asyncpg"), pytest.param("psycopg", psycopg_engine, id="psycopg")],
)
async def test_everything_works_through_a_transaction_pooler(
    driver: str,
    engine: Callable[[str], AsyncEngine],
    database: PostgresDatabase,
    pgbouncer: PgBouncer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P1, P2; H34, H98. Adding, relaying, handling and emitting; wake-ups take the direct connection.

    Nothing of ours stays in the sessions that the pooler gives to others.
    """
    made = engine(database.url(driver, port=pgbouncer.port))
    settings = AppSettings(listen_url=database.url(driver))
    app = App("counting", made, MemoryBroker(), settings=settings)
    event = application.counted("counted")
    application.count_in(app, event)
    await app.database.transact(create_missing)
    await app.database.transact(application.Base.metadata.create_all)
    async with app.running():
        for number in range(1, 21):
            async with app.session() as session, session.begin():
                app.outbox.add(session, event(name=f"key-{number % 3}", number=number))
        await app.drained()
    effects = await app.database.read(lambda c: c.execute(sa.text("SELECT number FROM effect")).scalars().all())
    assert sorted(effects) == list(range(1, 21))
    async with made.connect() as connection:
        for setting, usual in (("plan_cache_mode", "auto"), ("idle_in_transaction_session_timeout", "0")):
            assert await connection.scalar(sa.text(f"SHOW {setting}")) == usual
    await app.close()
    await made.dispose()


@pytest.mark.server
async def test_a_lease_bounds_its_transactions_through_a_pooler(
    database: PostgresDatabase, pgbouncer: PgBouncer
) -> None:
    """H203: also where the server allows more: a process that is stopped keeps nobody out for longer than its lease."""
    made, direct = (
        psycopg_engine(database.url("psycopg", port=pgbouncer.port)),
        create_async_engine(database.url("psycopg")),
    )
    async with direct.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        name = await connection.scalar(sa.text("SELECT current_database()"))
        await connection.execute(sa.text(f"ALTER DATABASE \"{name}\" SET idle_in_transaction_session_timeout = '77s'"))
    async with Database(made, listen_url=database.url("psycopg")) as ours:
        leases = Leases(ours, "test", slots=1, ttl=timedelta(seconds=15))
        show = sa.text("SHOW idle_in_transaction_session_timeout")
        assert await leases._transact(lambda connection: connection.scalar(show)) == "15s"
    await made.dispose()
    await direct.dispose()
