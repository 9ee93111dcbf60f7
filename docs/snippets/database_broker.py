import asyncio

from txpatterns import App, Event, Transaction


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


orders = App("orders", "sqlite+aiosqlite:///orders.db", broker="database://")
billing = App("billing", "sqlite+aiosqlite:///orders.db", broker="database://")  # as a rule in another process


@billing.on(OrderPlaced)
async def bill(event: OrderPlaced, tx: Transaction) -> None:
    print(f"billing {event.order_id}")
    billed.set()


billed = asyncio.Event()


async def main() -> None:
    async with orders.running(), billing.running():
        async with orders.transaction() as session:
            orders.outbox.add(session, OrderPlaced(order_id="o-1"))
        await billed.wait()


asyncio.run(main())
