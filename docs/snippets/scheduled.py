"""A reminder that is sent later, unless the customer pays first."""

# --8<-- [start:schedule]
import asyncio
from datetime import timedelta

from txpatterns import App, Event, Transaction

app = App("reminders")


class PaymentDue(Event, topic="payments", type="payment.due", key="order_id"):
    order_id: str


@app.on(PaymentDue)
async def remind(event: PaymentDue, tx: Transaction) -> None:
    print("reminding", event.order_id)


async def order_placed(order_id: str, patience: timedelta) -> str:
    async with app.session() as session, session.begin():
        return app.outbox.add(session, PaymentDue(order_id=order_id), deliver_after=patience)


async def order_paid(reminder: str) -> bool:
    async with app.session() as session, session.begin():
        return await app.outbox.acancel(session, reminder)  # True: it will not be sent


# --8<-- [end:schedule]


# --8<-- [start:run]
async def main() -> None:
    async with app.running():
        paid = await order_placed("paid", timedelta(minutes=15))
        print("taken back:", await order_paid(paid))
        print("a second time:", await order_paid(paid))
        forgotten = await order_placed("forgotten", timedelta(milliseconds=100))
        while await order_is_waiting(forgotten):
            await asyncio.sleep(0.05)
        await app.drained()


async def order_is_waiting(reminder: str) -> bool:
    async with app.session() as session, session.begin() as transaction:
        waits = await app.outbox.acancel(session, reminder)
        await transaction.rollback()  # only looked
        return waits


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
