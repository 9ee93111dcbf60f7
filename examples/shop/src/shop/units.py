"""The services of one process: they start one after the other, and stop together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from shop.checkout.steps import StepNotes
from shop.pruning import Prune
from shop.stumbles import Stumbles
from txpatterns import App


@dataclass(frozen=True, slots=True)
class Unit:
    """One service in this process: its App, its notes for an order's page, and what deletes its old rows."""

    name: str
    app: App
    notes: Sequence[Stumbles | StepNotes]
    prunes: Sequence[Prune]


@asynccontextmanager
async def together(units: Sequence[Unit]) -> AsyncIterator[None]:
    """Run all Apps at once. They stop at once too: one after the other, each would wait for what the others handle."""
    stopping = asyncio.Event()

    async def run(unit: Unit, up: asyncio.Event) -> None:
        async with unit.app.running():
            up.set()
            await stopping.wait()

    async with asyncio.TaskGroup() as group:
        for unit in units:
            up = asyncio.Event()
            group.create_task(run(unit, up))
            await up.wait()
        try:
            yield
        finally:
            stopping.set()


async def make_database(url: str) -> None:
    """Make a service's database on a PostgreSQL server, where it is missing."""
    wanted = make_url(url)
    engine = create_async_engine(wanted.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            query = text("SELECT 1 FROM pg_database WHERE datname = :name")
            if await connection.scalar(query, {"name": wanted.database}) is None:
                quoted = engine.dialect.identifier_preparer.quote(str(wanted.database))
                await connection.exec_driver_sql(f"CREATE DATABASE {quoted}")
    finally:
        await engine.dispose()
