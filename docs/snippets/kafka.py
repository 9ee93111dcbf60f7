"""One App on Apache Kafka, with the settings written out."""

# --8<-- [start:broker]
import asyncio
import os
from datetime import timedelta

from txpatterns import App, Event, Transaction
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.errors import UnsafeSettings

SERVERS = os.environ.get("KAFKA_SERVERS", "localhost:9092")
TOPIC = os.environ.get("TOPIC", "order-events")

broker = KafkaBroker.from_url(
    f"kafka://{SERVERS}",
    options={"client.id": "orders"},  # for the driver, both directions
    producer={"compression.type": "lz4", "linger.ms": 5},
    consumer={"session.timeout.ms": 45_000},
    deadline=timedelta(seconds=20),
    max_payload=500_000,
    create_topics=6,  # in development; 0, the default, makes none
)
app = App("orders", broker=broker)
# --8<-- [end:broker]

# --8<-- [start:refused]
try:
    KafkaBroker.from_url(f"kafka://{SERVERS}?acks=1")
except UnsafeSettings as refused:
    print(refused)
# --8<-- [end:refused]


class OrderPlaced(Event, topic=TOPIC, type="order.placed", key="order_id"):
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
