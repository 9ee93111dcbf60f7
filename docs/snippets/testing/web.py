"""The application behind docs/how-to/test-your-handlers.md, as a web application and with a sessionmaker of its own."""

from decimal import Decimal
from typing import Annotated

import orders
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from txpatterns import new_id
from txpatterns.integrations.fastapi import session_dependency, txpatterns_lifespan

web = FastAPI(lifespan=txpatterns_lifespan(orders.app))
make_session = async_sessionmaker(orders.app.database.engine, expire_on_commit=False)
Session = Annotated[AsyncSession, Depends(session_dependency(orders.app), scope="function")]


@web.post("/orders")
async def place(total: Decimal, session: Session) -> str:
    order_id = new_id()
    session.add(orders.Order(id=order_id, total=total))
    orders.app.outbox.add(session, orders.OrderPlaced(order_id=order_id, total=total))
    return order_id
