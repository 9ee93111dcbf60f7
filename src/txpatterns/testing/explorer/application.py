"""Exploring an App of yours: its own handlers, its own tables, with a broker that outlives its processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pkgutil import resolve_name

from txpatterns.app import App
from txpatterns.database.setup import create_missing
from txpatterns.testing.explorer.apart import place_of
from txpatterns.testing.explorer.cases import Options
from txpatterns.testing.explorer.explore import Report, explore_flow
from txpatterns.testing.explorer.flows import Flow, Surroundings
from txpatterns.testing.explorer.invariants import INVARIANTS, Invariant
from txpatterns.testing.explorer.wire import WireBroker
from txpatterns.testing.rebuilding import database_like, rebuilt
from txpatterns.testing.settling import settle

_ROUNDS = 200
"""More than a process makes before the explorer lets a paused one go on that has locked what this one waits for."""
_LATER = timedelta(hours=1)

Story = Callable[[App], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Running:
    app: App
    broker: WireBroker
    around: Surroundings

    async def settle(self) -> None:
        """Publish, handle and retry until nothing waits, jumping from due time to due time."""
        for _ in range(_ROUNDS):
            (left,) = await settle([self.app], self._rested)
            if left.next_due is None:
                return
            self.around.clock.jump(_LATER)
        raise AssertionError("messages wait on and on")

    async def _rested(self, app: App) -> None:
        await self.broker.rested(app.name, app.consumer.handlers.topics)


async def explore(
    app: App,
    flow: Story,
    *,
    prepare: Story | None = None,
    invariants: Sequence[Invariant] = (),
    databases: Sequence[str] = ("sqlite", "sqlite"),
    options: Options | None = None,
) -> Report:
    """Strike an App at every point of a flow, let it recover, and check what is left.

    In each case a process of its own runs ``flow``, publishes and handles what came of it, and is struck once: it is
    killed, its connection or task ends, or it is paused past its leases. A new process recovers, and the library's
    own invariants and yours are checked: functions that take a ``State`` and raise AssertionError. ``prepare`` runs
    before, undisturbed: what there was already.

    Those processes come from a fresh interpreter: nothing of the calling one is taken over but its environment and
    import path. They find the App and the functions by module and name, so these must stand at the top of modules.
    The App given is never connected itself.

    ``databases`` has one URL for each process to work with: ``sqlite`` for a throw-away file, or a PostgreSQL
    database, **which is emptied**. ``options`` bound what is explored; by default that is every point and fault.

    Raises:
        Broken: the flow fails or breaks an invariant even when nothing strikes it.
        ConfigurationError: the App or a function cannot be found by another process.
    """
    story = Flow(
        name=getattr(flow, "__name__", "flow"),
        make=partial(_make, place_of(app)),
        act=partial(_act, flow),
        recover=_Running.settle,
        prepare=None if prepare is None else partial(_prepare, prepare),
        invariants=(*INVARIANTS, *invariants),
    )
    return await asyncio.to_thread(explore_flow, story, databases, options)


@asynccontextmanager
async def _make(place: str, around: Surroundings) -> AsyncIterator[_Running]:
    """Turn the App of this process into one on the database and broker of the case."""
    app: App = resolve_name(place)
    broker = around.broker()
    made = rebuilt(app, database_like(app.database, around.url, clock=around.clock), broker)
    app.__dict__.update(made.__dict__)
    if around.life < 0:
        await app.database.transact(partial(create_missing, target=app.metadata))
    async with app:
        yield _Running(app, broker, around)
    await app.database.close()


async def _act(flow: Story, running: _Running) -> None:
    await flow(running.app)
    await running.settle()


async def _prepare(prepare: Story, running: _Running) -> None:
    await prepare(running.app)
