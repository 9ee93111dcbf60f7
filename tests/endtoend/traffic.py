"""Messages committed in small transactions, whatever happens to the database meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from endtoend.application import Count, Ledger
from txpatterns import App

KEYS = 1000
PER_TRANSACTION = 20


async def commit_all(app: App, event: type[Count], messages: int) -> None:
    """Commit messages in small transactions; a lost connection is answered by looking whether it was committed."""
    numbers: Counter[str] = Counter()
    for start in range(0, messages, PER_TRANSACTION):
        batch = []
        for n in range(start, min(start + PER_TRANSACTION, messages)):
            name = f"key-{n % KEYS}"
            numbers[name] += 1
            batch.append(event(name=name, number=numbers[name]))
        while not await _commit(app, batch):  # noqa: ASYNC110 - a server is away; there is no event
            await asyncio.sleep(0.2)


async def _commit(app: App, batch: list[Count]) -> bool:
    try:
        async with AsyncSession(app.database.engine) as session, session.begin():
            for event in batch:
                message_id = app.outbox.add(session, event)
                session.add(Ledger(message_id=message_id, key=event.name, number=event.number))
    except (DBAPIError, OSError):
        return await _was_committed(app, batch)
    return True


async def _was_committed(app: App, batch: list[Count]) -> bool:
    first, ledger = batch[0], Ledger
    while True:
        try:
            async with AsyncSession(app.database.engine) as session:
                query = sa.select(ledger).where(ledger.key == first.name, ledger.number == first.number)
                return (await session.scalars(query)).first() is not None
        except (DBAPIError, OSError):
            await asyncio.sleep(0.2)
