"""The same event in each wire form."""

import asyncio
import json
from decimal import Decimal

from txpatterns import App, BigInt, Event, Message
from txpatterns.serialization import CloudEventsBinary, CloudEventsStructured, RawCodec


# --8<-- [start:event]
class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id", version="1.0"):
    order_id: str
    total: Decimal
    customer: BigInt


# --8<-- [end:event]

app = App("codecs")


async def main() -> None:
    await app.prepare()
    show("envelope", await add())
    # --8<-- [start:choose]
    app.registry.codec = CloudEventsBinary(source="/orders")  # before the first message
    # --8<-- [end:choose]
    show("CloudEvents, binary", await add())
    app.registry.codec = CloudEventsStructured(source="/orders")
    show("CloudEvents, structured", await add())
    app.registry.codec = RawCodec()
    show("raw", await add())


async def add() -> Message:
    async with app.session() as session:
        app.outbox.add(session, OrderPlaced(order_id="7", total=Decimal("19.90"), customer=2**60))
        return app.outbox.pending(session)[0]


def show(name: str, message: Message) -> None:
    print(f"{name} ({message.content_type})")
    for header, value in message.headers.items():
        print(f"  {header}: {value}")
    print(" ", json.dumps(json.loads(message.payload), indent=2).replace("\n", "\n  "))


if __name__ == "__main__":
    asyncio.run(main())
