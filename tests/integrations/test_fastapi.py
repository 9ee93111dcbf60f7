"""An App in a FastAPI application, under a real uvicorn."""

import asyncio
from contextlib import asynccontextmanager
from typing import Annotated

import fastapi
import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rig.ports import free_port
from txpatterns import App, Event, Hooks, Transaction
from txpatterns.correlation import CORRELATION_ID
from txpatterns.hooks import on
from txpatterns.inbox.moments import Handled
from txpatterns.integrations.fastapi import (
    CorrelationMiddleware,
    health_router,
    session_dependency,
    txpatterns_lifespan,
)
from txpatterns.outbox.moments import Added


class Base(DeclarativeBase):
    pass


class Slip(Base):
    __tablename__ = "slips"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class Placed(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


class Told(Hooks):
    def __init__(self):
        self.handled_one = asyncio.Event()

    @on(Handled)
    def handled(self, moment):
        self.handled_one.set()


class Noting(Hooks):
    def __init__(self, messages):
        self.messages = messages

    @on(Added)
    def added(self, moment):
        self.messages.append(moment.message)


def make(tmp_path, hooks=(), inner=None):
    metadata = sa.MetaData()
    Slip.__table__.to_metadata(metadata)
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", metadata=metadata, hooks=hooks)

    @app.on(Placed)
    async def pack(event: Placed, tx: Transaction) -> None:
        tx.session.add(Slip(order_id=event.order_id))

    web = FastAPI(lifespan=txpatterns_lifespan(app, inner=inner))
    web.include_router(health_router(app))
    session_of = session_dependency(app)

    @web.post("/orders/{order_id}")
    async def place(
        order_id: str, session: Annotated[AsyncSession, Depends(session_of, scope="function")], fail: bool = False
    ) -> dict:
        app.outbox.add(session, Placed(order_id=order_id))
        if fail:
            raise HTTPException(409)
        return {"placed": order_id}

    return app, web


@asynccontextmanager
async def serving(web):
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(web, port=port, log_level="warning", lifespan="on"))
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0)
        yield client
    server.should_exit = True
    await task


async def slips(app):
    return await app.database.read(lambda c: set(c.scalars(sa.select(Slip.order_id))))


async def test_a_request_becomes_an_effect(tmp_path):
    """P1, P2: the path operation commits, the lifespan's relay and consumer do the rest; what failed is not sent."""
    told = Told()
    app, web = make(tmp_path, [told])
    async with serving(web) as client:
        assert (await client.post("/orders/8?fail=true")).status_code == 409
        assert (await client.post("/orders/7")).json() == {"placed": "7"}
        await asyncio.wait_for(told.handled_one.wait(), 120)
        await app.drained()
        assert await slips(app) == {"7"}
    assert app.health().parts == ()  # stopped with the server


async def test_ones_own_lifespan_runs_inside(tmp_path):
    """A user's lifespan may use the App at its start and at its end, and keeps its state."""
    seen = []

    @asynccontextmanager
    async def mine(_web):
        seen.append([part.name for part in app.health().parts])
        yield {"answer": 42}
        seen.append(app.health().alive)

    app, web = make(tmp_path, inner=mine)

    @web.get("/answer")
    async def answer(request: fastapi.Request) -> int:
        return request.state.answer

    async with serving(web) as client:
        assert (await client.get("/answer")).json() == 42
    assert "relay" in seen[0]
    assert seen[1] is True


async def test_health_tells_live_from_ready(tmp_path, monkeypatch):
    """H143: probes see a part that makes no progress, and a database that does not answer."""
    app, web = make(tmp_path)
    async with serving(web) as client:
        await app.drained()
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["database"]) == (200, True)
        assert {part["name"] for part in ready.json()["parts"]} >= {"relay", "consumer"}

        async def away(_work):
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("postgresql://u:hunter2@h"))

        with monkeypatch.context() as patch:
            patch.setattr(app.database, "read", away)
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["database"]) == (503, False)
            assert "hunter2" not in ready.text
            assert (await client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("given", "stored"),
    [("request-7", "request-7"), ("a\tb é" + "x" * 200, "ab" + "x" * 126), ("", None), (None, None)],
    ids=["as it is", "cleaned", "empty", "none"],
)
async def test_a_requests_id_goes_with_its_messages(tmp_path, given, stored):
    """P1: whatever a stranger sends as an id, the message is stored, and the answer names the story it began."""
    added = []
    _app, web = make(tmp_path, [Noting(added)])
    web.add_middleware(CorrelationMiddleware, header="X-Story")
    headers = {} if given is None else {"X-Story": given.encode("latin-1")}
    async with web.router.lifespan_context(web):
        transport = httpx.ASGITransport(web)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer = await client.post("/orders/7", headers=headers)
            others = await client.post("/orders/8")
    ids = [message.headers[CORRELATION_ID] for message in added]
    assert ids == [answer.headers["x-story"], others.headers["x-story"]]
    assert ids[0] == stored or (stored is None and ids[0])
    assert ids[0] != ids[1]


@pytest.mark.parametrize("later", ["task", "stream"])
async def test_a_session_ends_with_its_request(tmp_path, later):
    """H231: what is done with it after the commit would never be committed, and nobody would hear of it."""
    app, web = make(tmp_path)
    dependency = Depends(session_dependency(app), scope="function")

    def add(session: AsyncSession) -> None:
        app.outbox.add(session, Placed(order_id="late"))

    @web.post("/task")
    async def in_a_task(session: Annotated[AsyncSession, dependency], tasks: BackgroundTasks) -> None:
        tasks.add_task(add, session)

    @web.post("/stream")
    async def in_a_stream(session: Annotated[AsyncSession, dependency]) -> StreamingResponse:
        async def body():
            session.add(Slip(order_id="late"))
            yield b"sent"

        return StreamingResponse(body())

    async with web.router.lifespan_context(web):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://shop") as client:
            with pytest.raises(Exception, match="permanently closed"):
                await client.post(f"/{later}")
        await app.drained()
        assert await slips(app) == set()


async def test_missing_tables_stop_the_start(database):
    """H100: the server does not begin to accept orders that it could not store."""
    app = App("shop", database.url("asyncpg"))
    web = FastAPI(lifespan=txpatterns_lifespan(app))
    with pytest.raises(Exception, match="txp db upgrade"):
        async with web.router.lifespan_context(web):
            pytest.fail("it started")


async def test_a_background_task_gets_an_error_from_the_session_of_its_request(tmp_path):
    """P1, H202: what it adds and what it sends would vanish."""
    app, web = make(tmp_path)
    errors = []

    @web.post("/late")
    async def late(
        session: Annotated[AsyncSession, Depends(session_dependency(app), scope="function")], tasks: BackgroundTasks
    ) -> None:
        def afterwards():
            for use in (lambda: session.add(Slip(order_id="8")), lambda: app.outbox.add(session, Placed(order_id="8"))):
                with pytest.raises(InvalidRequestError, match="permanently closed") as raised:
                    use()
                errors.append(raised.value)

        session.add(Slip(order_id="7"))
        tasks.add_task(afterwards)

    async with web.router.lifespan_context(web):
        transport = httpx.ASGITransport(web)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.post("/late")).status_code == 200
            ready = await client.get("/health/ready")
    assert len(errors) == 2
    assert await slips(app) == {"7"}
    assert all(part["attention"] == [] for part in ready.json()["parts"])
    await app.close()
