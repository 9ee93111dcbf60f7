"""The application that the end-to-end tests run in several processes: ``python application.py relay|consume``."""

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
    """What was committed: the truth that everything else is held against."""

    __tablename__ = "ledger"
    message_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    number: Mapped[int]


class Effect(Base):
    """What handlers did, in the order in which they did it."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(BigIdentity, sa.Identity(), primary_key=True)
    message_id: Mapped[str]
    key: Mapped[str]
    number: Mapped[int]


class Count(Event):
    """What is sent, on whichever topic: see ``counted``."""

    name: str
    number: int


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
    return count_in(App("counting", database, broker, settings=settings, hooks=[Teller()]), event)


def count_in(app: App, event: type[Count]) -> App:
    @app.on(event)
    async def count(event: Count, tx: Transaction) -> None:
        tx.session.add(Effect(message_id=tx.message.id, key=event.name, number=event.number))

    return app


def tell_stacks_when_asked() -> None:
    """On SIGUSR1: what every task waits for, then what every thread does (also when the loop is blocked)."""

    def tell() -> None:
        for task in asyncio.all_tasks():
            task.print_stack(limit=3)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)


async def main(role: str) -> None:
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
