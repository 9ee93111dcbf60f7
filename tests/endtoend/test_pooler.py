"""Behind PgBouncer in transaction mode, where no two statements need share a connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from endtoend import application
from rig.servers.pgbouncer import PgBouncer
from rig.servers.postgres import Database as PostgresDatabase
from sagas.support import QUICK, Declined, effect, pack, release, reserve, tables, unpack
from txpatterns import App, AppSettings, MemoryBroker
from txpatterns.coordination import Leases
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import SagaFailed
from txpatterns.messages import Event
from txpatterns.sagas import Call, Handle, SagaContext, Undo


def asyncpg_engine(url: str) -> AsyncEngine:
    unnamed = {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
    }
    return create_async_engine(url, connect_args=unnamed)


def psycopg_engine(url: str) -> AsyncEngine:
    return create_async_engine(url, connect_args={"prepare_threshold": None})


DRIVERS = pytest.mark.parametrize(
    ("driver", "engine"),
    [pytest.param("asyncpg", asyncpg_engine, id="asyncpg"), pytest.param("psycopg", psycopg_engine, id="psycopg")],
)


@pytest.mark.server
@DRIVERS
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
    await nothing_of_ours_stays(made)
    await app.close()
    await made.dispose()


USUAL = {"plan_cache_mode": "auto", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}


async def nothing_of_ours_stays(engine: AsyncEngine) -> None:
    """Look at several of the pooler's sessions at once, or the same would answer each time."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            connection = await stack.enter_async_context(engine.connect())
            for setting, usual in USUAL.items():
                assert await connection.scalar(sa.text(f"SHOW {setting}")) == usual
            assert await connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


LONG = timedelta(minutes=2)


class Confirmed(Event, topic="confirmed", type="confirmed", key="trip"):
    trip: str


async def charge(call: Call, trip: str) -> str:
    return call.key


async def refund(undo: Undo[str], trip: str) -> None:
    assert undo.result == undo.of


async def part(saga: SagaContext, trip: str) -> str:
    return await saga.step(reserve, f"part of {trip}", compensate=release)


async def trip(saga: SagaContext, number: int) -> str:
    hold = await saga.step(reserve, saga.id, compensate=release)
    key, box = await saga.gather(
        saga.call(charge, saga.id, compensate=refund), saga.step(pack, saga.id, compensate=unpack)
    )
    await saga.lock("till", timeout=timedelta(hours=1))
    told = await saga.child(part, saga.id, id=f"part-{saga.id}")
    confirmed = await saga.wait_for(Confirmed, key=saga.id, timeout=timedelta(hours=1))
    await saga.sleep(timedelta(milliseconds=1))
    if number % 3 == 0:
        raise Declined(number)
    return f"{hold}, {key}, {box}, {told}, {confirmed.trip}"


@pytest.mark.server
@DRIVERS
async def test_sagas_run_through_a_transaction_pooler(
    driver: str, engine: Callable[[str], AsyncEngine], database: PostgresDatabase, pgbouncer: PgBouncer
) -> None:
    """P4; H98. Many at once, with all that a saga may wait for; those that fail are undone."""
    made = engine(database.url(driver, port=pgbouncer.port))
    app = App("shop", made, MemoryBroker(), settings=AppSettings(listen_url=database.url(driver)))
    app.saga(retry=QUICK)(part)
    app.saga(retry=QUICK, errors=[Declined], signals=[Confirmed])(trip)
    await app.database.transact(create_missing)
    await app.database.transact(tables.create_all)
    handles: list[Handle[str]] = []
    async with app.running():
        for number in range(12):
            async with app.transaction() as session:
                handles.append(app.sagas.start(session, trip, number, id=str(number)))
                app.outbox.add(session, Confirmed(trip=str(number)))
        for number, handle in enumerate(handles):
            if number % 3:
                told = await handle.result(timeout=LONG)
                assert told == f"hold {number}, shop.trip/{number}/1/2, box {number}, hold part of {number}, {number}"
                continue
            with pytest.raises(SagaFailed, match=f"compensated: Declined: {number}"):
                await handle.result(timeout=LONG)
    effects = await app.database.read(lambda c: c.execute(sa.select(effect.c.what)).scalars().all())
    wanted = [f"{what} {number}" for number in range(12) for what in ("reserve", "pack", "reserve part of")]
    undone = [f"{what} {number}" for number in range(0, 12, 3) for what in ("release", "unpack")]
    assert sorted(effects) == sorted(wanted + undone)
    await nothing_of_ours_stays(made)
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
