"""Deliveries in memory: serial in each lane, parallel across lanes, bounded in number and bytes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from txpatterns.runtime.outages import Stopped
from txpatterns.transport import Delivery

logger = logging.getLogger("txpatterns")

Begin = Callable[[Iterable[Delivery]], tuple[int, Callable[[], Awaitable[None]]]]
"""Says how many of the deliveries of a lane begin now, and gives the work that brings them to their end."""


@dataclass(slots=True)
class _Lane:
    """What one topic and key has, and how many of that have begun: from the first on."""

    queue: deque[Delivery]
    begun: int = 1


class Lanes:
    """Takes deliveries as they come and begins with them one after the other for each topic and key."""

    def __init__(self, begin: Begin, *, max_in_flight: int, max_bytes: int, stopping: asyncio.Event) -> None:
        self._begin = begin
        self._stopping = stopping
        self._most = max_in_flight
        self._most_bytes = max_bytes
        self._waiting: dict[Hashable, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._cancelling = False
        self.broken = asyncio.Event()
        """Set when a lane ended in a way that nobody foresaw: what it had is not acknowledged, and not given back."""
        self.in_flight = 0
        self.bytes_in_flight = 0

    async def put(self, delivery: Delivery) -> None:
        """Take one more delivery; waits while there are too many. One that is too large alone comes alone.

        None is taken any more, or waited with, when the consumer stops; the broker gives it out again.
        """
        size = len(delivery.message.payload)
        await self._until(lambda: self._stopping.is_set() or self._has_room(size))
        if self._stopping.is_set():
            return
        self.in_flight += 1
        self.bytes_in_flight += size
        message = delivery.message
        lane = (message.topic, "id", message.id) if message.key is None else (message.topic, "key", message.key)
        found = self._waiting.get(lane)
        if found is not None:
            found.queue.append(delivery)
            return
        self._waiting[lane] = _Lane(deque((delivery,)))
        task = asyncio.create_task(self._drain(lane), name=f"lane {message.topic}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def wake(self) -> None:
        """Look again at what is waited for, because the consumer stops."""
        self._changed.set()

    async def drained(self) -> None:
        """Wait until nothing is in flight."""
        await self._until(lambda: self.in_flight == 0)

    def close_intake(self) -> None:
        """Forget what has not begun; the broker gives it out again."""
        for lane in self._waiting.values():
            while len(lane.queue) > lane.begun:
                self._forget(lane.queue.pop())

    async def cancel(self) -> None:
        """Cancel what runs and wait until it has ended."""
        self._cancelling = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cancelling = False

    async def _drain(self, name: Hashable) -> None:
        lane = self._waiting[name]
        queue = lane.queue
        try:
            with suppress(Stopped):
                while queue:
                    lane.begun, work = self._begin(queue)
                    await work()
                    for _ in range(lane.begun):
                        self._forget(queue.popleft())
        finally:
            for delivery in queue:
                self._forget(delivery)
            del self._waiting[name]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._cancelling:
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s has ended, and the intake begins anew", task.get_name(), exc_info=error)
            self.broken.set()
        elif task.cancelled():
            self.broken.set()

    def _forget(self, delivery: Delivery) -> None:
        self.in_flight -= 1
        self.bytes_in_flight -= len(delivery.message.payload)
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _has_room(self, size: int) -> bool:
        if self.in_flight == 0:
            return True
        return self.in_flight < self._most and self.bytes_in_flight + size <= self._most_bytes
