"""One App on Amazon SNS and SQS, with the settings written out."""

# --8<-- [start:broker]
import asyncio
import os
from datetime import timedelta

from txpatterns import App, Event, Transaction
from txpatterns.brokers.sqs import SqsBroker
from txpatterns.errors import ConfigurationError

broker = SqsBroker.from_url(
    "sqs://eu-central-1",
    endpoint=os.environ.get("SQS_ENDPOINT"),  # an emulator; None is AWS
    names={"orders/order-events": "orders-in.fifo"},  # a queue that AWS knows under another name
    visibility=timedelta(seconds=30),
    poll=timedelta(seconds=20),
)
app = App("orders", broker=broker)
# --8<-- [end:broker]

# --8<-- [start:refused]
try:
    SqsBroker.from_url("sqs://key:secret@eu-central-1")
except ConfigurationError as refused:
    print(refused.message)
# --8<-- [end:refused]


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


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
