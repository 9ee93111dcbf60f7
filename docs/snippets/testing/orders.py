"""A small application: what docs/how-to/test-your-handlers.md tests."""

from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, Transaction, new_id


class Base(DeclarativeBase):
    pass


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


class PackingStarted(Event, topic="packing-events", type="packing.started", key="order_id"):
    order_id: str


app = App("orders", metadata=Base.metadata)


async def place_order(total: Decimal) -> str:
    order_id = new_id()
    async with app.transaction() as session:
        session.add(Order(id=order_id, total=total))
        app.outbox.add(session, OrderPlaced(order_id=order_id, total=total))
    return order_id


@app.on(OrderPlaced)
async def start_packing(event: OrderPlaced, tx: Transaction) -> None:
    tx.session.add(PackingSlip(order_id=event.order_id))
    tx.emit(PackingStarted(order_id=event.order_id))
