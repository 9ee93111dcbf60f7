from txpatterns import App, Event, Transaction

app = App("orders")  # a SQLite file, orders.db, and a broker inside the process


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


async def place_order(order_id: str) -> None:
    async with app, app.transaction() as session:
        # what you write with this session, and the message: both, or neither
        app.outbox.add(session, OrderPlaced(order_id=order_id))


@app.on(OrderPlaced)
async def start_packing(event: OrderPlaced, tx: Transaction) -> None:
    print("packing", event.order_id)  # what it writes with tx.session happens once
