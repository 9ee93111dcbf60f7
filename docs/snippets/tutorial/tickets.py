"""A ticket is a seat and a payment: both are reserved, and then both are final, or neither."""

import asyncio
import os
import signal
import sys
from datetime import timedelta

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Reject
from txpatterns.tcc import BranchTransaction


class Base(DeclarativeBase):
    pass


class Seats(Base):
    __tablename__ = "seats"
    play: Mapped[str] = mapped_column(primary_key=True)
    free: Mapped[int]
    held: Mapped[int] = mapped_column(default=0)
    sold: Mapped[int] = mapped_column(default=0)


class Purse(Base):
    __tablename__ = "purses"
    owner: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    held: Mapped[int] = mapped_column(default=0)


app = App("tickets", metadata=Base.metadata)


@app.tcc.participant("seats")
async def seats(tx: BranchTransaction, play: str, number: int) -> None:
    row = await tx.session.get_one(Seats, play, with_for_update=True)
    if row.free < number:
        raise Reject(f"there are {row.free} seats")
    row.free, row.held = row.free - number, row.held + number


@seats.confirm
async def sell(tx: BranchTransaction, play: str, number: int) -> None:
    row = await tx.session.get_one(Seats, play, with_for_update=True)
    row.held, row.sold = row.held - number, row.sold + number


@seats.cancel
async def free(tx: BranchTransaction, play: str, number: int) -> None:
    row = await tx.session.get_one(Seats, play, with_for_update=True)
    row.held, row.free = row.held - number, row.free + number


@app.tcc.participant("purse")
async def purse(tx: BranchTransaction, owner: str, cents: int) -> None:
    row = await tx.session.get_one(Purse, owner, with_for_update=True)
    if row.cents < cents:
        raise Reject(f"{owner} has {row.cents} cents")
    row.cents, row.held = row.cents - cents, row.held + cents


@purse.confirm
async def pay(tx: BranchTransaction, owner: str, cents: int) -> None:
    row = await tx.session.get_one(Purse, owner, with_for_update=True)
    row.held -= cents


@purse.cancel
async def give_back(tx: BranchTransaction, owner: str, cents: int) -> None:
    row = await tx.session.get_one(Purse, owner, with_for_update=True)
    row.held, row.cents = row.held - cents, row.cents + cents


async def buy(owner: str, number: int) -> None:
    async with app.tcc.transaction(f"{owner}-{number}", timeout=timedelta(seconds=1)) as tcc:
        await tcc.try_(seats, "Hamlet", number)
        if "DIE" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        await tcc.try_(purse, owner, 300 * number)


async def look() -> None:
    async with app.session() as session:
        hamlet, ada = await session.get_one(Seats, "Hamlet"), await session.get_one(Purse, "Ada")
    print(f"seats: {hamlet.free} free, {hamlet.held} held, {hamlet.sold} sold; Ada: {ada.cents} cents, {ada.held} held")


async def main(words: list[str]) -> None:
    async with app:
        if words == ["open"]:
            async with app.transaction() as session:
                session.add_all([Seats(play="Hamlet", free=10), Purse(owner="Ada", cents=1000)])
        elif words:
            try:
                await buy("Ada", int(words[0]))
            except Reject as no:
                print("not bought:", no.reason)
        await look()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
