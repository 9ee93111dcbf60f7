"""Waiting for a saga that is not there, not yet there, or not there any more: it is told at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from sagas.support import PATIENCE, Shop, opened, reserve, saga_of
from txpatterns.errors import NotCommitted, UnknownSaga
from txpatterns.sagas import Handle, SagaContext
from txpatterns.sagas.schema import saga_table


@pytest.fixture
async def shop(any_database: str) -> AsyncIterator[Shop]:
    async with opened(any_database) as shop:
        saga_of(shop, order)
        yield shop


async def order(saga: SagaContext, sku: str) -> str:
    return await saga.step(reserve, sku)


async def refused(handle: Handle[str], why: type[Exception], text: str) -> None:
    with pytest.raises(why, match=text):
        await handle.result(timeout=PATIENCE)


async def test_an_id_that_nobody_has_started_is_told_at_once(shop: Shop) -> None:
    """P4, H335: also one whose saga has ended and was forgotten, while somebody waits for another."""
    handle = shop.app.sagas.handle(order, "order-7")
    await refused(handle, UnknownSaga, "no saga order-7 of shop.order")
    assert await handle.status() is None
    assert await shop.run(order, "A1", id="order-7") == "hold A1"
    assert await handle.result() == "hold A1"
    await shop.app.database.execute(sa.delete(saga_table))
    assert await handle.result() == "hold A1", "its own process knows"
    del handle
    await refused(shop.app.sagas.handle(order, "order-7"), UnknownSaga, "no saga order-7")


async def test_a_saga_is_not_waited_for_in_its_own_transaction(shop: Shop) -> None:
    """P4, H335: the wait would never end, for the transaction could not."""
    async with shop.app.transaction() as session:
        handle = shop.app.sagas.start(session, order, "A1", id="order-1")
        await refused(handle, NotCommitted, "its transaction is open")
        savepoint = await session.begin_nested()
        lost = shop.app.sagas.start(session, order, "A1", id="order-2")
        await refused(lost, NotCommitted, "its transaction is open")
        await savepoint.rollback()
    await refused(lost, NotCommitted, "was rolled back")
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "hold A1"


async def test_a_wait_that_was_too_short_names_the_saga(shop: Shop) -> None:
    """P4, H444: also one that nobody runs; the saga goes on."""
    async with shop.app.transaction() as session:
        handle = shop.app.sagas.start(session, order, "A1", id="order-1")
    with pytest.raises(TimeoutError, match=r"order-1 of .* had not ended"):
        await handle.result(timeout=timedelta(milliseconds=50))
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "hold A1"


async def test_a_start_that_was_rolled_back_is_told(shop: Shop) -> None:
    """P4, P1, H335: but for a saga with this id that another transaction has started."""
    async with shop.app.session() as session:
        handle = shop.app.sagas.start(session, order, "A1", id="order-1")
        await session.rollback()
        await refused(handle, NotCommitted, "was rolled back")
    await refused(handle, NotCommitted, "was rolled back")
    assert await shop.run(order, "A1") == "hold A1"
    assert await handle.result() == "hold A1"


async def test_a_transaction_around_may_be_open_still(shop: Shop) -> None:
    """P4, H335: a session has ended whose connection goes on."""
    async with shop.app.database.engine.begin() as connection:
        handle = shop.app.sagas.start(connection, order, "A1", id="order-1")
        await refused(handle, NotCommitted, "its transaction is open")
    async with shop.app.running():
        assert await handle.result(timeout=PATIENCE) == "hold A1"
