"""A process that consumes from a queue in the database and kills itself where it is told to.

`python dying.py URL POINT MARKER REDELIVERED [batches]`; prints `drained` when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from inbox.support import Noted, World, metadata, note, prepared, quick
from txpatterns.database import Database
from txpatterns.inbox import BatchTransaction, Consumer, Transaction
from txpatterns.messages import Message

TTL = timedelta(milliseconds=400)
IN_THE_MIDDLE = 3

queue = sa.Table(
    "queue",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("book", sa.String(20)),
    sa.Column("acked", sa.Boolean, nullable=False, default=False),
)


@dataclass(eq=False)
class QueueDelivery:
    message: Message
    redelivered: bool
    row: int
    broker: QueueBroker

    async def ack(self) -> None:
        self.broker.die_at("ack")
        await self.broker.database.execute(sa.update(queue).where(queue.c.id == self.row).values(acked=True))


class QueueBroker:
    """Gives out again, after a restart, what was not acknowledged, in order."""

    def __init__(self, world: World, point: str, marker: Path, redelivered: bool) -> None:
        self.world, self.database = world, world.database
        self.point, self.marker, self.redelivered = point, marker, redelivered

    def die_at(self, point: str) -> None:
        if point != self.point or (point != "always" and self.marker.exists()):
            return
        with self.marker.open("a") as marks:
            marks.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AsyncIterator[AsyncIterator[list[QueueDelivery]]]:
        yield self._give()

    async def _give(self) -> AsyncIterator[list[QueueDelivery]]:
        open_rows = sa.select(queue).where(~queue.c.acked).order_by(queue.c.id)
        rows = await self.database.read(lambda connection: list(connection.execute(open_rows)))
        messages = [self.world.message(Noted(book=row.book, number=row.id), f"message-{row.id}") for row in rows]
        yield [QueueDelivery(m, self.redelivered, row.id, self) for m, row in zip(messages, rows, strict=True)]
        await asyncio.Event().wait()


def one_by_one(consumer: Consumer, broker: QueueBroker) -> None:
    """Handle one message at a time, and die at the first."""
    failed = broker.marker.with_suffix(".failed")

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if event.number == 1:
            broker.die_at("handler")
            broker.die_at("always")
            if broker.point == "retry" and not failed.exists():
                failed.touch()
                raise ValueError("once, before the second attempt dies")
            broker.die_at("retry")


def in_batches(consumer: Consumer, broker: QueueBroker) -> None:
    """Handle lists, and die at one message in the middle of the first."""

    @consumer.on(Noted, batch=10)
    async def noted(events: list[Noted], tx: BatchTransaction) -> None:
        for event in events:
            await tx.session.execute(note(event.book, event.number))
            if event.number == IN_THE_MIDDLE:
                broker.die_at("handler")
                broker.die_at("always")


async def main(url: str, point: str, marker: str, redelivered: str, batches: str = "") -> None:
    async with Database(url) as database:
        world = await prepared(database)
        broker = QueueBroker(world, point, Path(marker), redelivered == "yes")
        world.broker = broker  # type: ignore[assignment]
        consumer = world.consumer(policies=quick(7), takeover=timedelta(milliseconds=300), lease_ttl=TTL)
        (in_batches if batches else one_by_one)(consumer, broker)
        task = asyncio.create_task(consumer.run())
        while not await drained(world):  # noqa: ASYNC110 - another process may have done it
            await asyncio.sleep(0.02)
        consumer.stop()
        await task
    print("drained")


async def drained(world: World) -> bool:
    rows = await world.rows(queue)
    return all(row.acked for row in rows) and not await world.waiting()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
