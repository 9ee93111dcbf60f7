"""What docs/how-to/test-your-handlers.md shows of a test client, and of sessions of one's own."""

# --8<-- [start:client]
import asyncio
from collections.abc import Sequence
from decimal import Decimal

import orders
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from web import make_session, web

from txpatterns import App
from txpatterns.testing.harness import Txp


@pytest.fixture
def txp_app() -> App:
    return orders.app


def test_an_order_by_http_is_packed(txp: Txp) -> None:
    with TestClient(web) as client:
        order_id = client.post("/orders", params={"total": "12.50"}).json()
        asyncio.run(txp.drain())
    txp.assert_handled(orders.start_packing, order_id=order_id, times=1)


# --8<-- [end:client]


# --8<-- [start:sessions]
@pytest.fixture
def txp_sessions() -> Sequence[async_sessionmaker[AsyncSession]]:
    return [make_session]


async def test_my_own_sessions_see_the_same_database(txp: Txp) -> None:
    order_id = await orders.place_order(Decimal("12.50"))
    async with make_session() as session:
        assert await session.scalar(select(orders.Order.id)) == order_id


# --8<-- [end:sessions]
