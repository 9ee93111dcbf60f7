"""One story through all there is: a request, the outbox, the relay, the broker, a consumer, and what it emits."""

import asyncio
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from txpatterns import App, Event, Hooks, Transaction
from txpatterns.correlation import CAUSATION_ID, CORRELATION_ID
from txpatterns.database.setup import create_missing
from txpatterns.hooks import on
from txpatterns.inbox.moments import Handled
from txpatterns.integrations.fastapi import CorrelationMiddleware, session_dependency, txpatterns_lifespan
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks


class Told(Hooks):
    """Lets the test wait until so many messages are handled."""

    def __init__(self):
        self.handled_by = []
        self.news = asyncio.Event()

    @on(Handled)
    def handled(self, moment):
        self.handled_by.append(moment.consumer)
        self.news.set()

    async def until(self, number):
        async with asyncio.timeout(120):
            while len(self.handled_by) < number:
                self.news.clear()
                await self.news.wait()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.server)])
def place(request, tmp_path):
    """A database, a broker, and two topics there."""
    if request.param == "memory":
        return f"sqlite+aiosqlite:///{tmp_path}/story.db", "memory://", ("orders", "parcels")
    kafka = request.getfixturevalue("kafka")
    topics = kafka.create("orders"), kafka.create("parcels")
    return request.getfixturevalue("database").url("asyncpg"), kafka.url, topics


def make_web(app, event, tracer):
    """An application with one path, in a span as an instrumented server would make it."""
    web = FastAPI(lifespan=txpatterns_lifespan(app))
    web.add_middleware(CorrelationMiddleware)
    session_of = session_dependency(app)

    @web.post("/orders/{order_id}")
    async def place_order(
        order_id: str, session: Annotated[AsyncSession, Depends(session_of, scope="function")]
    ) -> str:
        with tracer.start_as_current_span("POST /orders"):
            return app.outbox.add(session, event(order_id=order_id))

    return web


async def test_one_trace_and_one_correlation_id_join_request_relay_and_handlers(place, spans, metrics):
    """P1, P2: who looks at the request's trace sees the sending and the handling of all that followed from it."""
    url, broker, (orders, parcels) = place

    class Ordered(Event, topic=orders, type="ordered", key="order_id"):
        order_id: str

    class Packed(Event, topic=parcels, type="packed", key="order_id"):
        order_id: str

    told, stories = Told(), {}
    hooks = [TracingHooks(spans.provider), MetricsHooks(metrics.provider), told]
    app = App("story", url, broker, hooks=hooks)
    await app.database.transact(create_missing)

    @app.on(Ordered)
    async def pack(event: Ordered, tx: Transaction) -> None:
        stories["pack"] = tx.message
        tx.emit(Packed(order_id=event.order_id))

    @app.on(Packed)
    async def ship(event: Packed, tx: Transaction) -> None:
        stories["ship"] = tx.message

    web = make_web(app, Ordered, spans.provider.get_tracer("test"))
    async with web.router.lifespan_context(web):
        transport = httpx.ASGITransport(web)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer = await client.post("/orders/7", headers={"X-Request-ID": "request-7"})
        await told.until(2)
        await app.drained()

    first, second = stories["pack"], stories["ship"]
    assert (answer.json(), answer.headers["x-request-id"]) == (first.id, "request-7")
    assert {message.headers[CORRELATION_ID] for message in (first, second)} == {"request-7"}
    assert second.headers[CAUSATION_ID] == first.id
    (request,), (packing,), (shipping,) = (
        spans.named(name) for name in ("POST /orders", f"process {orders}", f"process {parcels}")
    )
    sendings = [*spans.named(f"send {orders}"), *spans.named(f"send {parcels}")]
    assert len(sendings) == 2
    assert {span.context.trace_id for span in (packing, shipping, *sendings)} == {request.context.trace_id}
    assert (packing.parent.span_id, shipping.parent.span_id) == (request.context.span_id, packing.context.span_id)
    assert sum(metrics.values("txpatterns.messages.handled").values()) == 2
