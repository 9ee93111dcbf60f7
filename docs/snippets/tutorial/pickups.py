import asyncio
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, FailurePolicies, FailurePolicy, RetryLadder, Transaction
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.resilience import CircuitBreaker


class Base(DeclarativeBase): ...


class PickUp(Base):
    __tablename__ = "pickups"
    parcel_id: Mapped[str] = mapped_column(primary_key=True)


class ParcelPacked(Event, topic="packed", type="parcel.packed", key="parcel_id"):
    parcel_id: str


two_attempts = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=100),))))
app = App("pickups", metadata=Base.metadata, policies=two_attempts)

carrier = CircuitBreaker("carrier", failures=3, open_for=timedelta(seconds=1), hooks=app.hooks)
answers = ["away", "away", "away"]
calls: list[str] = []


async def order_a_van(parcel_id: str) -> None:
    """Stand for the call of a carrier who is away for the first three."""
    answer = answers.pop() if answers else "on its way"
    calls.append(answer)
    if answer == "away":
        raise ConnectionRefusedError("the carrier is away")


@app.on(ParcelPacked)
async def pick_up(event: ParcelPacked, tx: Transaction) -> None:
    tx.session.add(PickUp(parcel_id=event.parcel_id))
    async with carrier:
        await order_a_van(event.parcel_id)


async def main() -> None:
    async with app.running():
        async with app.session() as session, session.begin():
            for number in range(20):
                app.outbox.add(session, ParcelPacked(parcel_id=f"parcel-{number}"))
        while await count("SELECT count(*) FROM pickups") < 20:
            await asyncio.sleep(0.05)
    print("parcels picked up:", await count("SELECT count(*) FROM pickups"))
    print("calls that failed:", calls.count("away"))
    print("calls in all:", len(calls))
    print("dead letters:", await count(f"SELECT count(*) FROM {dead_letter_table.name}"))
    print("the carrier is", carrier.state)


async def count(query: str) -> int:
    async with app.session() as session:
        return (await session.execute(sa.text(query))).scalar_one()


if __name__ == "__main__":
    asyncio.run(main())
