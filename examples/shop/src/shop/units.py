"""The services of one process: they start one after the other, and stop together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

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
