"""The same event in each wire form."""

# --8<-- [start:event]
import asyncio
import json
from decimal import Decimal

from txpatterns import App, BigInt, Event, Message
from txpatterns.serialization import CloudEventsBinary, CloudEventsStructured, Codec, EnvelopeCodec, RawCodec


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id", version="1.0"):
    order_id: str
    total: Decimal
    customer: BigInt


# --8<-- [end:event]


# --8<-- [start:choose]
def app_with(codec: Codec) -> App:
    return App("codecs", codec=codec)  # for example CloudEventsBinary(source="/orders")


# --8<-- [end:choose]


# --8<-- [start:run]
async def main() -> None:
    placed = OrderPlaced(order_id="7", total=Decimal("19.90"), customer=2**60)
    show("envelope", await add(EnvelopeCodec(), placed))
    show("CloudEvents, binary", await add(CloudEventsBinary(source="/orders"), placed))
    show("CloudEvents, structured", await add(CloudEventsStructured(source="/orders"), placed))
    show("raw", await add(RawCodec(), placed))


async def add(codec: Codec, event: Event) -> Message:
    app = app_with(codec)
    async with app.session() as session:
        app.outbox.add(session, event)
        return app.outbox.pending(session)[0]


def show(name: str, message: Message) -> None:
    print(f"{name} ({message.content_type})")
    for header, value in message.headers.items():
        print(f"  {header}: {value}")
    print(" ", json.dumps(json.loads(message.payload), indent=2).replace("\n", "\n  "))


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]


# --8<-- [start:tombstone]
class OrderForgotten(Event, topic="order-events", type="order.forgotten", key="order_id", tombstone=True):
    order_id: str


# --8<-- [end:tombstone]

if __name__ == "__main__":
    gone = asyncio.run(add(RawCodec(), OrderForgotten(order_id="7")))
    assert (gone.is_tombstone, gone.key, gone.payload) == (True, "7", b"")
