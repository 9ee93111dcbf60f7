"""A route that answers a repeated request with the first answer; here the client asks three times."""

# --8<-- [start:app]
import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

import httpx
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, new_id
from txpatterns.integrations.fastapi import (
    answer_with_problems,
    keyed_route,
    session_dependency,
    txpatterns_lifespan,
)
from txpatterns.integrations.idempotency import IdempotencyKeys


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


class NewOrder(BaseModel):
    total: Decimal


TOKENS = {"secret-of-ada": "ada"}


async def user_id(authorization: Annotated[str, Header()] = "") -> str:
    user = TOKENS.get(authorization.removeprefix("Bearer "))
    if user is None:
        raise HTTPException(401)
    return user


app = App("keyed", metadata=Base.metadata)
keys = IdempotencyKeys(app, lease=timedelta(seconds=30), keep=timedelta(days=1))
orders = APIRouter(prefix="/orders", route_class=keyed_route(keys, principal=user_id))
Session = Annotated[AsyncSession, Depends(session_dependency(app), scope="function")]


@orders.post("", status_code=201)
async def place(order: NewOrder, session: Session) -> str:
    placed = Order(id=new_id(), total=order.total)
    session.add(placed)
    app.outbox.add(session, OrderPlaced(order_id=placed.id))
    return placed.id


web = FastAPI(lifespan=txpatterns_lifespan(app, relay=False, consume=False))
web.include_router(orders)
answer_with_problems(web)
# --8<-- [end:app]


# --8<-- [start:ask]
async def ask(client: httpx.AsyncClient, key: str, total: str) -> str:
    head = {"Authorization": "Bearer secret-of-ada", "Idempotency-Key": key}
    answer = await client.post("/orders", headers=head, json={"total": total})
    is_repeat = "idempotent-replayed" in answer.headers
    print(answer.status_code, answer.json()["detail"] if answer.is_error else f"is a repeat: {is_repeat}")
    return answer.text


async def main() -> None:
    async with web.router.lifespan_context(web):
        transport = httpx.ASGITransport(app=web)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            key = new_id()
            assert await ask(client, key, "19.90") == await ask(client, key, "19.90")
            await ask(client, key, "29.90")


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:ask]
