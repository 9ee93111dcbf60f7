"""A read model that is written a hundred events at a time, and one event that cannot be used."""

# --8<-- [start:handler]
import asyncio
from collections import Counter
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, BatchTransaction, Event, FailurePolicies, FailurePolicy, RetryLadder, Transaction


class Base(DeclarativeBase):
    pass


class Balance(Base):
    __tablename__ = "balance"
    account: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


quick = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=50),))))
app = App("reports", metadata=Base.metadata, policies=quick)


class Paid(Event, topic="payments", type="payment.made", key="account"):
    account: str
    cents: int


class LargePayment(Event, topic="alarms", type="payment.large", key="account"):
    account: str
    cents: int


@app.on(Paid, batch=100)
async def book(events: list[Paid], tx: BatchTransaction) -> None:
    sums = Counter[str]()
    for event, message in zip(events, tx.messages, strict=True):
        if event.cents < 0:
            raise ValueError("a payment is never negative")
        sums[event.account] += event.cents
        if event.cents >= 50:
            tx.emit(LargePayment(account=event.account, cents=event.cents), cause=message)
    for account, cents in sorted(sums.items()):  # in one order, so that no two batches block each other
        balance = await tx.session.get(Balance, account)
        if balance is None:
            tx.session.add(balance := Balance(account=account, cents=0))
        balance.cents += cents


# --8<-- [end:handler]


# --8<-- [start:run]
@app.on(LargePayment)
async def look(event: LargePayment, tx: Transaction) -> None:
    print("somebody should look at a payment of", event.cents)


async def main() -> None:
    async with app.running():
        async with app.session() as session, session.begin():
            for number in range(1, 51):
                for account in ("Ada", "Bob"):
                    cents = -1 if (account, number) == ("Bob", 20) else number
                    app.outbox.add(session, Paid(account=account, cents=cents))
        await app.drained()
        while await value("SELECT count(*) FROM txp_inbox_waiting") or not await value(DEAD):
            await asyncio.sleep(0.02)
        await app.drained()
    async with app.session() as session:
        for balance in await session.scalars(sa.select(Balance).order_by(Balance.account)):
            print(balance.account, balance.cents)
    print("dead letters:", await value(DEAD))


DEAD = "SELECT count(*) FROM txp_dead_letter"


async def value(query: str) -> int:
    async with app.session() as session:
        return (await session.execute(sa.text(query))).scalar_one()


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
