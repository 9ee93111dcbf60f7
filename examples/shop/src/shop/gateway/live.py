"""Telling open pages that an order's story goes on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta


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
