"""Purchases committed in small transactions, whatever happens to the database meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from endtoend.application import Account, Base, Count, Ledger, Shelf, buyer, pay, seller
from txpatterns import App
from txpatterns.database.setup import create_missing

KEYS = 1000
WRITERS = 4
"""They share the keys out among them, so that each key's messages are committed one after the other."""
PER_TRANSACTION = 20
FUNDS = 1_000_000
"""What each buyer begins with."""
PIECES = 10_000
"""What each shelf begins with."""


class Allowance:
    """How many messages may be committed by now: so that there is something to send as long as there are faults."""

    def __init__(self, first: int) -> None:
        self._limit = first
        self._raised = asyncio.Condition()

    async def raise_to(self, limit: int) -> None:
        async with self._raised:
            self._limit = max(limit, self._limit)
            self._raised.notify_all()

    async def reach(self, count: int) -> None:
        """Wait until so many are allowed."""
        async with self._raised:
            await self._raised.wait_for(lambda: self._limit >= count)


async def open_shop(app: App) -> None:
    """Make the tables, ours and the workload's, and fill its accounts and shelves."""
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)
    names = [f"key-{n}" for n in range(KEYS)]
    accounts = [{"name": buyer(name), "balance": FUNDS} for name in names]
    accounts += [{"name": seller(name), "balance": 0} for name in names]
    shelves = [{"name": name, "available": PIECES, "sold": 0} for name in names]
    async with app.session() as session, session.begin():
        await session.execute(sa.insert(Account), accounts)
        await session.execute(sa.insert(Shelf), shelves)


async def commit_all(app: App, event: type[Count], messages: int, allowance: Allowance | None = None) -> None:
    """Commit messages in small transactions; a lost connection is answered by looking whether it was committed."""
    async with asyncio.TaskGroup() as writers:
        for first in range(WRITERS):
            writers.create_task(_commit_share(app, event, range(first, messages, WRITERS), allowance))


async def _commit_share(app: App, event: type[Count], share: range, allowance: Allowance | None) -> None:
    numbers: Counter[str] = Counter()
    for start in range(0, len(share), PER_TRANSACTION):
        batch = []
        for n in share[start : start + PER_TRANSACTION]:
            name = f"key-{n % KEYS}"
            numbers[name] += 1
            batch.append(event(name=name, number=numbers[name], amount=1 + n % 7))
        if allowance is not None:
            await allowance.reach(share[start])
        while not await _commit(app, batch):  # noqa: ASYNC110 - a server is away; there is no event
            await asyncio.sleep(0.2)


async def _commit(app: App, batch: list[Count]) -> bool:
    try:
        async with app.session() as session, session.begin():
            for event in batch:
                message_id = app.outbox.add(session, event)
                row = {"key": event.name, "number": event.number, "amount": event.amount}
                session.add(Ledger(message_id=message_id, **row))
                await session.execute(pay(buyer(event.name), -event.amount))
    except (DBAPIError, OSError):
        return await _was_committed(app, batch)
    return True


async def _was_committed(app: App, batch: list[Count]) -> bool:
    first, ledger = batch[0], Ledger
    while True:
        try:
            async with app.session() as session:
                query = sa.select(ledger).where(ledger.key == first.name, ledger.number == first.number)
                return (await session.scalars(query)).first() is not None
        except (DBAPIError, OSError):
            await asyncio.sleep(0.2)
