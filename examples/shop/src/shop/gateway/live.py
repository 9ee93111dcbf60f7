"""Telling open pages that an order's story goes on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class Bell:
    """Rings for whoever waits for news of an order. It carries no news: who hears it reads the database."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def ring(self, order_id: str) -> None:
        """Wake everybody who waits for this order. To be called after the commit."""
        for waiting in self._waiting.get(order_id, ()):
            waiting.set()

    def close(self) -> None:
        """Wake everybody for the last time, so that open pages do not hold the process up."""
        self.closed = True
        for order_id in list(self._waiting):
            self.ring(order_id)

    async def wait(self, order_id: str, timeout: timedelta) -> None:
        """Wait for the bell, or for the time to pass: news that another process wrote down rings no bell here."""
        heard = asyncio.Event()
        self._waiting[order_id].add(heard)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await heard.wait()
        except TimeoutError:
            return
        finally:
            self._waiting[order_id].discard(heard)
            if not self._waiting[order_id]:
                del self._waiting[order_id]


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
