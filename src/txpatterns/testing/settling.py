"""Running Apps until nothing is due any more: exactly, by looking again after the last change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from txpatterns.app import App
from txpatterns.testing import remains
from txpatterns.testing.deaths import Deaths, unless
from txpatterns.testing.remains import Look

Rested = Callable[[App], Awaitable[object]]
"""Waits until an App has acknowledged all that its broker has for it."""
Step = Callable[[], Awaitable[object]]


async def settle(
    apps: Sequence[App],
    rested: Rested,
    *,
    first: Step | None = None,
    deaths: Deaths | None = None,
) -> list[Look]:
    """Publish, handle and retry all that is due, and what comes of it; gives what each App has left for later.

    The last look is made when all parts have stopped: nothing is under way then that could still add something.
    ``first`` is done as soon as they run. When one of the ``deaths`` has happened all parts stop, as they are.
    """
    died = asyncio.Event() if deaths is None else deaths.begin()
    while True:
        async with AsyncExitStack() as running:
            for app in apps:
                # Of the class, because in a test the App itself says that nothing runs by itself.
                await running.enter_async_context(type(app).running(app))
            try:
                if first is not None:
                    await first()
                    first = None
                while await unless(died, _made_something_due(apps, rested)):
                    continue
            except BaseException:
                for app in apps:
                    app.consumer.stop()  # a handler that hangs may have locked what the relay needs to end
                raise
        looks = [await app.database.read(remains.look) for app in apps]
        for app in apps:
            await app.database.close()
        if died.is_set() or not any(look.at_once for look in looks):
            return looks


async def _made_something_due(apps: Sequence[App], rested: Rested) -> bool:
    for app in apps:
        await type(app).drained(app)
        await rested(app)
    return any([await app.database.read(remains.is_something_at_once) for app in apps])
