"""A step that writes by the driver itself, past SQLAlchemy: a COPY, say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sagas.support import Shop, opened, reserve, saga_of
from txpatterns.sagas import SagaContext, StepTransaction


@pytest.fixture
async def shop(any_database: str) -> AsyncIterator[Shop]:
    async with opened(any_database) as shop:
        yield shop


async def test_what_the_bare_driver_writes_first_is_part_of_the_step(shop: Shop) -> None:
    """P4, H450: it is rolled back with the attempt that fails, and there once in the end."""

    async def load(tx: StepTransaction, sku: str) -> str:
        connection = await (await tx.session.connection()).get_raw_connection()
        await connection.driver_connection.execute(f"INSERT INTO effect (what) VALUES ('load {sku}')")
        if tx.attempt == 1:
            raise ConnectionError("an accident")
        return await reserve(tx, sku)

    async def order(saga: SagaContext, sku: str) -> str:
        return await saga.step(load, sku)

    saga_of(shop, order)
    assert await shop.run(order, "A1") == "hold A1"
    assert await shop.effects() == ["load A1", "reserve A1"]
