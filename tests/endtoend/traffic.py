"""Messages committed in small transactions, whatever happens to the database meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from endtoend.application import Count, Ledger
from txpatterns import App

KEYS = 1000
WRITERS = 4
"""They share the keys out among them, so that each key's messages are committed one after the other."""
PER_TRANSACTION = 20


async def commit_all(app: App, event: type[Count], messages: int) -> None:
    """Commit messages in small transactions; a lost connection is answered by looking whether it was committed."""
    async with asyncio.TaskGroup() as writers:
        for first in range(WRITERS):
            writers.create_task(_commit_share(app, event, range(first, messages, WRITERS)))


async def _commit_share(app: App, event: type[Count], share: range) -> None:
    numbers: Counter[str] = Counter()
    for start in range(0, len(share), PER_TRANSACTION):
        batch = []
        for n in share[start : start + PER_TRANSACTION]:
            name = f"key-{n % KEYS}"
            numbers[name] += 1
            batch.append(event(name=name, number=numbers[name]))
        while not await _commit(app, batch):  # noqa: ASYNC110 - a server is away; there is no event
            await asyncio.sleep(0.2)


async def _commit(app: App, batch: list[Count]) -> bool:
    try:
        async with app.session() as session, session.begin():
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
            async with app.session() as session:
                query = sa.select(ledger).where(ledger.key == first.name, ledger.number == first.number)
                return (await session.scalars(query)).first() is not None
        except (DBAPIError, OSError):
            await asyncio.sleep(0.2)
