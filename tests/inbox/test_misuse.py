"""Engines and handlers that would break the one transaction of an effect and its record."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from inbox.support import Noted, prepared, quick, running
from txpatterns.database import Database
from txpatterns.errors import NotTransactional
from txpatterns.inbox import Transaction

AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}


@pytest.mark.parametrize("way", ["engine", "options"])
async def test_a_consumer_on_autocommit_is_refused_at_the_start(any_database, way):
    """P2, H4: the record would be kept although the effect failed, and the message be taken for handled."""
    engine = create_async_engine(any_database, **(AUTOCOMMIT if way == "engine" else {}))
    async with Database(engine.execution_options(**AUTOCOMMIT) if way == "options" else engine) as database:
        consumer = (await prepared(database)).consumer()

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            raise AssertionError("never")

        with pytest.raises(NotTransactional):
            consumer.check()
    await engine.dispose()


async def test_a_connection_that_turns_out_to_commit_by_itself_is_a_failed_attempt(database):
    """P2, H4: no effect is lost where only the connection tells: nothing is claimed, and the message is kept."""
    url = database.url("psycopg").replace("postgresql+psycopg:", "postgresql+psycopg_async:")
    engine = create_async_engine(url, connect_args={"autocommit": True})
    async with Database(engine) as ours:
        world = await prepared(ours)
        consumer = world.consumer(policies=quick(1))

        @consumer.on(Noted)
        async def noted(event: Noted, tx: Transaction) -> None:
            raise AssertionError("never")

        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        (letter,) = await world.dead()
        assert "NotTransactional" in letter.error
        assert await world.inbox() == []
    await engine.dispose()


async def test_a_claim_of_your_own_on_autocommit_is_refused(any_database):
    """P2, H4: a claim that commits alone would be remembered without its effect."""
    async with Database(any_database) as database:
        world = await prepared(database)
        inbox = world.consumer().inbox
        engine = create_async_engine(any_database, **AUTOCOMMIT)
        async with AsyncSession(engine) as session:
            with pytest.raises(NotTransactional):
                await inbox.aclaim(session, "mine", "m1")
        await engine.dispose()
        assert await world.inbox() == []
