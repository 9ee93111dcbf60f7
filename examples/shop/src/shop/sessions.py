"""Transactions of the services' own, outside handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from txpatterns import App

WRITES = {"txpatterns_writes": True}


@asynccontextmanager
async def writing(app: App) -> AsyncIterator[AsyncSession]:
    """Open a session and a transaction that will write, and commit it at the end.

    On SQLite it takes the writer's place at once: a transaction that reads first and writes later could otherwise
    find that somebody else wrote in between, and would have to start again.
    """
    async with app.session() as session, session.begin():
        await session.connection(execution_options=WRITES)
        yield session
