import asyncio
import os
import signal
import sys

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event, Transaction
from txpatterns.sagas import SagaContext, StepTransaction


class Base(DeclarativeBase): ...


class Booking(Base):
    __tablename__ = "bookings"
    trip: Mapped[str] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)


class TripBooked(Event, topic="trips", type="trip.booked", key="trip"):
    trip: str


class TooDear(Exception): ...


app = App("trips", metadata=Base.metadata)


async def book(tx: StepTransaction, trip: str, what: str) -> None:
    tx.session.add(Booking(trip=trip, what=what))  # commits with the note that this step is done
    print("booking the", what, flush=True)
    die_at(what)  # here the booking is added and not committed


async def give_back(tx: StepTransaction, trip: str, what: str) -> None:
    await tx.session.execute(sa.delete(Booking).where(Booking.trip == trip, Booking.what == what))
    print("giving back the", what, flush=True)
    die_at(f"no {what}")


async def pay(tx: StepTransaction, euros: int) -> None:
    if euros > 500:
        raise TooDear(f"{euros} euros")
    print("paying", euros, "euros", flush=True)


@app.saga(errors=[TooDear])
async def travel(saga: SagaContext, euros: int) -> str:
    print("the code begins", flush=True)
    await saga.step(book, saga.id, "train", compensate=give_back)
    await saga.step(book, saga.id, "hotel", compensate=give_back)
    await saga.step(pay, euros)
    saga.emit(TripBooked(trip=saga.id))
    return "have a nice trip"


@app.on(TripBooked)
async def send_tickets(event: TripBooked, tx: Transaction) -> None:
    print("sending the tickets to", event.trip, flush=True)


def die_at(place: str) -> None:
    if os.environ.get("DIE") == place:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(trip: str, euros: int) -> None:
    async with app, app.transaction() as session:
        app.sagas.start(session, travel, euros, id=trip)  # begins if, and only if, this commits
    print("the trip to", trip, "is committed", flush=True)


if __name__ == "__main__":
    where, price = sys.argv[1:] or ("Rome", "300")
    asyncio.run(main(where, int(price)))
