"""Telling open pages that an order's story goes on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class Bell:
    """Rings for whoever waits for news of an order. It carries no news: who hears it reads the database."""

    def __init__(self) -> None:
        self._ears: defaultdict[str, set[Ear]] = defaultdict(set)
        self.closed = False

    def ring(self, order_id: str) -> None:
        """Wake everybody who listens for this order. To be called after the commit."""
        for ear in self._ears.get(order_id, ()):
            ear.ring()

    def close(self) -> None:
        """Wake everybody for the last time, so that open pages do not hold the process up."""
        self.closed = True
        for order_id in list(self._ears):
            self.ring(order_id)

    @contextmanager
    def listening(self, order_id: str) -> Iterator[Ear]:
        """Listen for an order from now on: what rings while the listener is busy reading is not missed."""
        ear = Ear()
        self._ears[order_id].add(ear)
        try:
            yield ear
        finally:
            self._ears[order_id].discard(ear)
            if not self._ears[order_id]:
                del self._ears[order_id]


class Ear:
    """Hears one order's bell."""

    def __init__(self) -> None:
        self._rang = asyncio.Event()

    def ring(self) -> None:
        """Wake the listener, now or at its next wait."""
        self._rang.set()

    async def wait(self, timeout: timedelta) -> None:
        """Wait for the bell, or for the time to pass: news that another process wrote down rings no bell here."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                await self._rang.wait()
        self._rang.clear()


class Reading:
    """Reads to their end what a page that is closed in the middle would cut short.

    A cut read costs the pool its connection, and pages are closed at any moment.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a read; when the one who waits is cancelled, the read goes on by itself."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)
