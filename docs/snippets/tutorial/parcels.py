import asyncio
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, FailurePolicies, FailurePolicy, Reject, Retry, RetryLadder, Transaction
from txpatterns.deadletters.schema import dead_letter_table


class Base(DeclarativeBase): ...


class Parcel(Base):
    __tablename__ = "parcels"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]


class ParcelMoved(Event, topic="parcels", type="parcel.moved", key="parcel_id"):
    parcel_id: str
    state: str


ladder = RetryLadder((timedelta(milliseconds=100), timedelta(milliseconds=200)))
policies = FailurePolicies(FailurePolicy(ladder=ladder))
app = App("parcels", metadata=Base.metadata, policies=policies)

attempts: dict[str, int] = {}


@app.on(ParcelMoved)
async def follow(event: ParcelMoved, tx: Transaction) -> None:
    name = f"{event.parcel_id} {event.state}"
    attempts[name] = attempts.get(name, 0) + 1
    print(f"{name}: attempt {attempts[name]}")
    await tx.session.merge(Parcel(id=event.parcel_id, state=event.state))
    if event.state == "lost":
        raise RuntimeError("no such shelf")  # an accident: tried again, then a dead letter
    if event.state == "stolen":
        raise Reject("parcels cannot be stolen")  # no attempt will help: a dead letter at once
    if event.state == "late" and attempts[name] == 1:
        raise Retry(after=timedelta(milliseconds=50))  # not an error: please again, a little later


async def main() -> None:
    moves = [("A", "packed"), ("A", "lost"), ("A", "sent"), ("B", "late"), ("B", "sent"), ("C", "stolen")]
    async with app.running():
        async with app.session() as session, session.begin():
            for parcel, state in moves:
                app.outbox.add(session, ParcelMoved(parcel_id=parcel, state=state))
        while await count("parcels WHERE state = 'sent'") < 2:
            await asyncio.sleep(0.05)
    async with app.session() as session:
        for parcel in await session.scalars(sa.select(Parcel).order_by(Parcel.id)):
            print("parcel", parcel.id, "is", parcel.state)
        dead = sa.select(dead_letter_table).order_by(dead_letter_table.c.id)
        for letter in await session.execute(dead):
            print("dead letter:", letter.key, letter.reason, "after attempt", letter.attempts)


async def count(rows: str) -> int:
    async with app.session() as session:
        return (await session.execute(sa.text(f"SELECT count(*) FROM {rows}"))).scalar_one()


if __name__ == "__main__":
    asyncio.run(main())
