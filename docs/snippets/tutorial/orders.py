import asyncio
import os
import signal
from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, Transaction, new_id


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


class PackingSlip(Base):
    __tablename__ = "packing_slips"
    order_id: Mapped[str] = mapped_column(primary_key=True)


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str
    total: Decimal


app = App("orders", metadata=Base.metadata)


async def place_order(total: Decimal) -> Order:
    async with app.session() as session, session.begin():
        order = Order(id=new_id(), total=total)
        session.add(order)
        app.outbox.add(session, OrderPlaced(order_id=order.id, total=total))  # sent only if this commits
    return order


@app.on(OrderPlaced)
async def start_packing(event: OrderPlaced, tx: Transaction) -> None:
    tx.session.add(PackingSlip(order_id=event.order_id))  # commits with the note that this message was handled
    print("packing, total", event.total, flush=True)
    if "DIE" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)  # here the slip is added and not committed


async def main() -> None:
    async with app:
        await place_order(Decimal("19.90"))
        print("the order is committed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # nothing has been published yet


if __name__ == "__main__":
    asyncio.run(main())
