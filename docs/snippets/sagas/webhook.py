"""A saga that waits for a webhook: it comes in time, before anybody waits, twice, or too late."""

# --8<-- [start:saga]
import asyncio
from contextlib import suppress
from datetime import timedelta

from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event
from txpatterns.errors import WaitTimedOut
from txpatterns.sagas import Call, SagaContext, Signal, StepTransaction


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]


class PaymentCaptured(Event, topic="payments", type="payment.captured", key="order_id"):
    order_id: str
    payment_id: str


class PaymentRefused(Event, topic="payments", type="payment.refused", key="payment_id"):
    payment_id: str
    order_id: str
    why: str


app = App("shop", metadata=Base.metadata)


async def put(tx: StepTransaction, order_id: str, state: str) -> None:
    await tx.session.merge(Order(id=order_id, state=state))


async def refund(call: Call, payment_id: str) -> None:
    print("refunding", payment_id)  # here you call the provider, with call.key as the idempotency key


@app.saga(signals=[PaymentCaptured, Signal(PaymentRefused, by="order_id")])
async def settle(saga: SagaContext, order_id: str, patience: timedelta) -> str:
    await saga.step(put, order_id, "unpaid")
    try:
        came = await saga.first(
            saga.wait_for(PaymentCaptured, key=order_id, timeout=patience),
            saga.wait_for(PaymentRefused, key=order_id, timeout=patience),
        )
    except WaitTimedOut:
        await saga.step(put, order_id, "given up")
        return await give_back_what_comes_late(saga, order_id)
    if isinstance(came, PaymentRefused):
        saga.abort(came.why)  # ends the saga, and undoes what has a compensation
    await saga.step(put, order_id, "paid")
    return f"paid by {came.payment_id}"


async def give_back_what_comes_late(saga: SagaContext, order_id: str) -> str:
    with suppress(WaitTimedOut):
        late = await saga.wait_for(PaymentCaptured, key=order_id, timeout=timedelta(days=14))
        await saga.call(refund, late.payment_id)
    return "given up"


# --8<-- [end:saga]


# --8<-- [start:webhook]
class Notice(BaseModel):
    """What the provider posts, when you have verified its signature."""

    id: str
    order_id: str
    payment_id: str


async def webhook(notice: Notice) -> None:
    captured = PaymentCaptured(order_id=notice.order_id, payment_id=notice.payment_id)
    async with app.transaction() as session:
        app.sagas.bring(session, captured, message_id=notice.id)


# --8<-- [end:webhook]


# --8<-- [start:run]
async def main() -> None:
    hour, moment = timedelta(hours=1), timedelta(milliseconds=10)
    async with app.running():
        await webhook(Notice(id="n-1", order_id="order-1", payment_id="P-1"))  # before the saga begins
        await webhook(Notice(id="n-1", order_id="order-1", payment_id="P-1"))  # the provider sends it again
        async with app.transaction() as session:
            first = app.sagas.start(session, settle, "order-1", hour, id="order-1")
            second = app.sagas.start(session, settle, "order-2", moment, id="order-2")
        print("order-1:", await first.result())
        while await state("order-2") != "given up":
            await asyncio.sleep(0.01)
        await webhook(Notice(id="n-2", order_id="order-2", payment_id="P-2"))  # too late
        print("order-2:", await second.result())


async def state(order_id: str) -> str:
    async with app.session() as session:
        order = await session.get(Order, order_id)
        return "" if order is None else order.state


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
