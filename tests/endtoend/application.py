"""The application that the end-to-end tests run in several processes: ``python application.py "relay 1"``, or
``"consume 1"``.

A bank and its stock: who buys pays from an account of theirs in the transaction that sends the message, and whoever
handles the message pays the seller and takes one piece from the shelf. So a message that is lost, made up or handled
twice is seen in the sums too, not only in its own rows.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, AppSettings, Event, Hooks, Transaction
from txpatterns.brokers.database import DatabaseBroker
from txpatterns.database.schema import BigIdentity
from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import on
from txpatterns.inbox.moments import HandlerFailed
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox import RelaySettings
from txpatterns.outbox.moments import PublishFailed
from txpatterns.runtime.signals import stop_on_signals

LEASE = timedelta(seconds=float(os.environ.get("LEASE", "3")))

BURNT = "an attempt was used up"


class Base(DeclarativeBase): ...


class Ledger(Base):
    """What was committed: the truth that everything else is held against.

    Whoever commits once more, because the first reply was lost on its way, is stopped by the key's numbers.
    """

    __tablename__ = "ledger"
    __table_args__ = (sa.UniqueConstraint("key", "number"),)
    message_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    number: Mapped[int]
    amount: Mapped[int]


class Effect(Base):
    """What handlers did, in the order in which they did it."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(BigIdentity, sa.Identity(), primary_key=True)
    message_id: Mapped[str]
    key: Mapped[str]
    number: Mapped[int]
    amount: Mapped[int]


class Account(Base):
    """Money of a buyer or of a seller."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(sa.BigInteger)


class Shelf(Base):
    """Pieces of an item, here and sold."""

    __tablename__ = "shelf"
    name: Mapped[str] = mapped_column(primary_key=True)
    available: Mapped[int]
    sold: Mapped[int]


class Count(Event):
    """What is sent, on whichever topic: see ``counted``."""

    name: str
    number: int
    amount: int = 1


def counted(topic: str) -> type[Count]:
    """Make the event of a run, whose topic nobody else uses."""

    class Counted(Count, topic=topic, type="counted", key="name"): ...

    return Counted


class Teller(Hooks):
    """Says what no outage may cause: an attempt that counts."""

    @on(PublishFailed)
    def publish_failed(self, failed: PublishFailed) -> None:
        print(f"{BURNT}: publication {failed.attempt} of {failed.message.id}: {failed.error!r}")

    @on(HandlerFailed)
    def handler_failed(self, failed: HandlerFailed) -> None:
        print(f"{BURNT}: handling {failed.attempt} of {failed.message.id}: {failed.error!r}")

    @on(Dead)
    def dead(self, dead: Dead) -> None:
        print(f"{BURNT}: {dead.message.id} is a dead letter: {dead.error}")


def make_app(database: str, broker: str, event: type[Count]) -> App:
    settings = AppSettings(relay=RelaySettings(lease=LEASE), consumer=ConsumerSettings(lease_ttl=LEASE))
    between = DatabaseBroker(lease=LEASE) if broker == "database://" else broker
    return count_in(App("counting", database, between, settings=settings, hooks=[Teller()]), event)


def count_in(app: App, event: type[Count]) -> App:
    @app.on(event)
    async def count(event: Count, tx: Transaction) -> None:
        row = {"key": event.name, "number": event.number, "amount": event.amount}
        tx.session.add(Effect(message_id=tx.message.id, **row))
        await tx.session.execute(pay(seller(event.name), event.amount))
        taken = {"available": Shelf.available - 1, "sold": Shelf.sold + 1}
        await tx.session.execute(sa.update(Shelf).where(Shelf.name == event.name).values(taken))

    return app


def buyer(key: str) -> str:
    return f"buyer of {key}"


def seller(key: str) -> str:
    return f"seller of {key}"


def pay(name: str, amount: int) -> sa.Update:
    """Add an amount to an account; a negative one takes it."""
    return sa.update(Account).where(Account.name == name).values(balance=Account.balance + amount)


def tell_stacks_when_asked() -> None:
    """On SIGUSR1: what every task waits for, then what every thread does (also when the loop is blocked)."""

    def tell() -> None:
        for task in asyncio.all_tasks():
            task.print_stack(limit=3)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)


async def main(name: str) -> None:
    role = name.split(maxsplit=1)[0]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    tell_stacks_when_asked()
    app = make_app(os.environ["DATABASE"], os.environ["BROKER"], counted(os.environ["TOPIC"]))
    with stop_on_signals() as stopping:
        async with app.running(relay=role == "relay", consume=role == "consume"):
            print(f"{role} runs")
            await stopping.wait()
    print(f"{role} ends")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
