"""The application that the end-to-end tests run in several processes: ``python application.py relay|consume``."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, AppSettings, Event, Transaction
from txpatterns.database.schema import BigIdentity
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox import RelaySettings

LEASE = timedelta(seconds=3)


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


class Counted(Event, topic=os.environ.get("TOPIC", "counted"), type="counted", key="name"):
    name: str
    number: int


def make_app(database: str, broker: str) -> App:
    settings = AppSettings(relay=RelaySettings(lease=LEASE), consumer=ConsumerSettings(lease_ttl=LEASE))
    return count_in(App("counting", database, broker, settings=settings))


def count_in(app: App) -> App:
    @app.on(Counted)
    async def count(event: Counted, tx: Transaction) -> None:
        tx.session.add(Effect(message_id=tx.message.id, key=event.name, number=event.number))

    return app


async def main(role: str) -> None:
    app = make_app(os.environ["DATABASE"], os.environ["BROKER"])
    print(f"{role} begins")
    await app.run(relay=role == "relay", consume=role == "consume")
    print(f"{role} ends")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
