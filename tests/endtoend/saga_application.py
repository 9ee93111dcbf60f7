"""The sagas that the end-to-end test runs in several processes: ``python saga_application.py``.

Each moves money from the bank to an account of its own, in five ways. A third of them is undone, and in a quarter each
attempt of a step, a call or an undoing fails that is the first: so half of them fail somewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from endtoend.application import tell_stacks_when_asked
from txpatterns import App, AppSettings, Event, RetryLadder
from txpatterns.database.schema import BigIdentity
from txpatterns.runtime.signals import stop_on_signals
from txpatterns.sagas import Call, SagaContext, SagaSettings, StepTransaction, Undo

LEASE = timedelta(seconds=3)
BANK, STOCK = "bank", 1_000_000
"""The account that all is taken from, and how much is on it at the beginning."""

WAYS = 5
"""In how many ways sagas go: a saga's number says in which."""


class Base(DeclarativeBase): ...


class Account(Base):
    """Where money is; the sum of all is the same at every moment."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Effect(Base):
    """What steps and their undoings have done: once each."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(BigIdentity, sa.Identity(), primary_key=True)
    saga: Mapped[str]
    key: Mapped[str]
    what: Mapped[str]


class Charge(Base):
    """What somebody else's service did, outside of the sagas' transactions: each key once."""

    __tablename__ = "charge"
    key: Mapped[str] = mapped_column(primary_key=True)
    saga: Mapped[str]
    asked: Mapped[int]
    refunded: Mapped[int]


class Confirmed(Event, topic="confirmed", type="confirmed", key="order"):
    """What some sagas wait for."""

    order: str


class TooDear(Exception):
    """What undoes a saga."""


class Orders:
    """The sagas of an App."""

    def __init__(self, app: App) -> None:
        self.app = app
        ladder = RetryLadder((timedelta(milliseconds=50),) * 50)
        app.saga(retry=ladder)(self.part)
        app.saga(retry=ladder, errors=[TooDear], signals=[Confirmed], deadline=timedelta(hours=2))(self.order)

    async def order(self, saga: SagaContext, number: int) -> int:
        paid = await saga.step(take, saga.id, 1, compensate=give_back)
        paid += await self._way(saga, number)
        if is_undone(number):
            raise TooDear
        saga.pivot()
        return paid + await saga.step(take, saga.id, 1)

    async def _way(self, saga: SagaContext, number: int) -> int:
        async def late() -> int:
            await saga.sleep(timedelta(milliseconds=20))
            return await saga.step(take, saga.id, 1, compensate=give_back)

        match number % WAYS:
            case 0:
                return await saga.step(take, saga.id, 1, compensate=give_back)
            case 1:
                await saga.call(self.charge, saga.id, compensate=self.refund, timeout=timedelta(seconds=5))
                return 0
            case 2:
                await saga.wait_for(Confirmed, key=saga.id, timeout=None)
                return 0
            case 3:
                await saga.lock(f"till {number % 50}", timeout=timedelta(hours=1))
                return await saga.child(self.part, saga.id, id=f"{saga.id}/part", compensate=give_back_part)
            case _:
                return sum(await saga.gather(late(), saga.step(take, saga.id, 1, compensate=give_back)))

    async def part(self, saga: SagaContext, to: str) -> int:
        return await saga.step(take, to, 1, compensate=give_back)

    async def charge(self, call: Call, order: str) -> str:
        await self._ask(call, call.key, order, {"asked": Charge.asked + 1})
        return call.key

    async def refund(self, undo: Undo[str], order: str) -> None:
        await self._ask(undo, undo.of, order, {"refunded": Charge.refunded + 1})

    async def _ask(self, asked: Call, key: str, saga: str, change: dict[str, object]) -> None:
        """Ask somebody else for something, in a transaction that has nothing to do with the saga's."""
        async with self.app.session() as session, session.begin():
            found = await session.get(Charge, key, with_for_update=True)
            if found is None:
                session.add(Charge(key=key, saga=saga, asked=0, refunded=0))
                await session.flush()
            await session.execute(sa.update(Charge).where(Charge.key == key).values(**change))
        _fail_at_first(saga, asked.attempt)


async def take(tx: StepTransaction, to: str, amount: int) -> int:
    tx.session.add(Effect(saga=tx.saga_id, key=tx.key, what="take"))
    await _move(tx, to, amount)
    return amount


async def give_back(tx: StepTransaction, to: str, amount: int) -> None:
    tx.session.add(Effect(saga=tx.saga_id, key=tx.key, what="give back"))
    await _move(tx, to, -amount)


async def give_back_part(tx: StepTransaction, to: str) -> None:
    await give_back(tx, to, 1)


def make_orders(database: str) -> Orders:
    """Make an App with its sagas."""
    settings = AppSettings(sagas=SagaSettings(lease_ttl=LEASE, poisoned_after=1000, timeout_grace=timedelta(0)))
    return Orders(App("soak", database, "memory://", settings=settings))


def is_undone(number: int) -> bool:
    """Whether a saga of this number is undone in the end."""
    return number % 3 == 0


def fails_at_first(number: int) -> bool:
    """Whether the first attempt fails of each operation that this one has, and of its children's."""
    return number % 4 == 1


def waits(number: int) -> bool:
    """Whether one waits for an event."""
    return number % WAYS == 2


async def _move(tx: StepTransaction, to: str, amount: int) -> None:
    for name, change in ((to, amount), (BANK, -amount)):
        await tx.session.execute(
            sa.update(Account).where(Account.name == name).values(balance=Account.balance + change)
        )
    _fail_at_first(tx.saga_id, tx.attempt)


def _fail_at_first(saga: str, attempt: int) -> None:
    """Fail behind what was done: of a step that is rolled back, of a call it stays, and nobody is told of it."""
    number = int(saga.split("/")[1])
    if fails_at_first(number) and attempt == 1:
        raise ConnectionError("an accident")


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    tell_stacks_when_asked()
    app = make_orders(os.environ["DATABASE"]).app
    with stop_on_signals() as stopping:
        async with app.running(relay=False, consume=False):
            print("sagas runs")
            await stopping.wait()
    print("sagas ends")


if __name__ == "__main__":
    asyncio.run(main())
