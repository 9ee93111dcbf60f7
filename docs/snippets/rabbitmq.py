"""One App on RabbitMQ, with the settings written out."""

# --8<-- [start:broker]
import asyncio
import os
from datetime import timedelta

from txpatterns import App, Event, Transaction
from txpatterns.brokers.rabbitmq import RabbitMQBroker


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


broker = RabbitMQBroker.from_url(
    os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost:5672/%2F"),
    partitions=8,  # queues of this group for each topic: 1, 2, 4, 8 or 16
    deadline=timedelta(seconds=20),
    max_payload=500_000,
)
app = App("packing", broker=broker)
# --8<-- [end:broker]


# --8<-- [start:others]
app.declare("billing", OrderPlaced)
app.declare("shipping", OrderPlaced)
# --8<-- [end:others]

handled = asyncio.Event()


@app.on(OrderPlaced)
async def pack(event: OrderPlaced, tx: Transaction) -> None:
    print("packing", event.order_id)
    handled.set()


async def main() -> None:
    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, OrderPlaced(order_id="1"))
        await handled.wait()


if __name__ == "__main__":
    asyncio.run(main())
