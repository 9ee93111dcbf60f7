"""An App inside a web application: its lifespan, its sessions, and tests that are no coroutines."""

import asyncio
from typing import Annotated

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, Transaction
from txpatterns.integrations.fastapi import health_router, session_dependency, txpatterns_lifespan
from txpatterns.testing.harness import Txp


class Base(DeclarativeBase):
    pass


class Slip(Base):
    __tablename__ = "slip"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


app = App("orders", "postgresql+asyncpg://nobody@127.0.0.1:1/production", "kafka://127.0.0.1:1", metadata=Base.metadata)
web = FastAPI(lifespan=txpatterns_lifespan(app))
web.include_router(health_router(app))
RequestSession = Annotated[AsyncSession, Depends(session_dependency(app), scope="function")]


@app.on(OrderPlaced)
async def pack(event: OrderPlaced, tx: Transaction) -> None:
    tx.session.add(Slip(order_id=event.order_id))


@web.post("/orders/{order_id}")
async def place(order_id: str, session: RequestSession) -> str:
    app.outbox.add(session, OrderPlaced(order_id=order_id))
    return order_id


@web.get("/slips")
async def slips(session: RequestSession) -> list[str]:
    return list(await session.scalars(sa.select(Slip.order_id)))


@pytest.fixture
def txp_app() -> App:
    return app


def test_a_request_is_followed_to_its_effect(txp: Txp):
    """P1, P2: the client has an event loop of its own, in a thread of its own."""
    with TestClient(web) as client:
        client.post("/orders/1")
        assert client.get("/slips").json() == []
        asyncio.run(txp.drain())
        assert client.get("/slips").json() == ["1"]
        client.post("/orders/2")
        assert client.portal is not None
        client.portal.call(txp.drain)
        assert sorted(client.get("/slips").json()) == ["1", "2"]
    txp.assert_handled(pack, order_id="2", times=1)


async def test_the_same_in_a_test_with_a_loop(txp: Txp):
    """P1, P2: two loops at a time."""
    with TestClient(web) as client:
        await asyncio.to_thread(client.post, "/orders/1")
        await txp.drain()
        assert (await asyncio.to_thread(client.get, "/slips")).json() == ["1"]


def test_nothing_runs_by_itself(txp: Txp):
    """I15: who looks before the drain sees the same each time."""
    with TestClient(web) as client:
        client.post("/orders/1")
        assert txp.published == []
        assert client.get("/health/ready").json()["ok"] is True
    assert txp.published == []
    asyncio.run(txp.drain())
    txp.assert_published(OrderPlaced, order_id="1", times=1)


def test_a_lifespan_begins_and_ends_again_and_again(txp: Txp):
    """I14: each client has its own."""
    for number in range(3):
        with TestClient(web) as client:
            client.post(f"/orders/{number}")
    asyncio.run(txp.drain())
    assert len(txp.handled(pack)) == 3


async def test_code_that_waits_until_all_is_published(txp: Txp):
    """P1: `running` and `drained` by the code under test."""
    async with app.running():
        async with app.transaction() as session:
            app.outbox.add(session, OrderPlaced(order_id="1"))
        await app.drained()
        txp.assert_handled(pack, order_id="1", times=1)
