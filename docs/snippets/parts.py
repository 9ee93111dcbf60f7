"""The parts without App: outbox, relay and consumer, and an inbox alone."""

# --8<-- [start:outbox]
import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from txpatterns import Consumer, Database, Event, Inbox, MemoryBroker, Outbox, Relay, Transaction
from txpatterns.database.setup import create_missing
from txpatterns.serialization import EventRegistry


class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id"):
    order_id: str


engine = create_async_engine("sqlite+aiosqlite:///parts.db")
database = Database(engine)
registry = EventRegistry()
outbox = Outbox(database, registry)
broker = MemoryBroker()  # or any other Publisher
relay = Relay(database, broker)
# --8<-- [end:outbox]

# --8<-- [start:consumer]
consumer = Consumer(database, broker, registry, group="packing", emitter=outbox)


@consumer.on(OrderPlaced)
async def pack(event: OrderPlaced, tx: Transaction) -> None:
    print("packing", event.order_id)


# --8<-- [end:consumer]


# --8<-- [start:run]
async def send_one() -> None:
    broker.declare("packing", ["order-events"])  # MemoryBroker waits for the groups that it knows
    consuming = asyncio.create_task(consumer.run())
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, OrderPlaced(order_id="1"))
    await relay.run_once()  # all that is due; `run()` goes on until `stop()`
    consumer.stop()
    await consuming


# --8<-- [end:run]

# --8<-- [start:inbox]
inbox = Inbox(database)


async def on_webhook(delivery_id: str) -> str:
    async with AsyncSession(engine) as session, session.begin():
        if not await inbox.aclaim(session, "payments.webhook", delivery_id):
            return "seen before"
        await session.execute(sa.text("SELECT 'the effect'"))  # commits with the claim
        return "done"


# --8<-- [end:inbox]


# --8<-- [start:main]
async def main() -> None:
    await database.transact(create_missing)  # on SQLite; elsewhere `txp db upgrade`
    await send_one()
    print(await on_webhook("delivery-1"))
    print(await on_webhook("delivery-1"))
    await database.close()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:main]
