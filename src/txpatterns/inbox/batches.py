"""Handlers that take a list: what is there is handled together, and a batch that fails is halved."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.causes import one_of
from txpatterns.execution import Came, Result
from txpatterns.inbox.claims import Claims
from txpatterns.inbox.entries import Entry
from txpatterns.inbox.handlers import Handler
from txpatterns.inbox.invocation import Given
from txpatterns.inbox.moments import Handling, HandlingBatch
from txpatterns.inbox.processing import Processing
from txpatterns.messages import Event
from txpatterns.text import one_line

logger = logging.getLogger("txpatterns")

LEFT = Result(Came.REPEAT)
"""A message was not handled, because an earlier one of its key was not: it is to be handed over again."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A message for a handler of batches."""

    handler: Handler
    event: Event
    entry: Entry


class Part:
    """Messages that are handled in one transaction, and those of them that it could claim."""

    def __init__(self, items: Sequence[Item], claims: Claims, limit: timedelta | None) -> None:
        self.items = items
        first: dict[str, Item] = {}
        for item in items:
            first.setdefault(item.entry.message.id, item)
        self._first = list(first.values())  # without those whose id was there before
        self._claims = claims
        self._limit = limit
        self.taken = self._first

    def open(self, connection: Connection) -> bool:
        """Claim those that are neither handled nor waiting; says whether there are any."""
        self.taken = self._first
        ids = self._claims.take_all(connection, [item.entry for item in self._first], self._limit)
        self.taken = [item for item in self._first if item.entry.message.id in ids]
        return bool(self.taken)

    def stands(self, connection: Connection) -> bool:
        """Whether the claims are still there: they were made by one statement, so one tells of all."""
        return self._claims.has(connection, self.taken[0].entry)

    def given(self) -> Given:
        """What the handler is called with."""
        return [(item.event, item.entry.message) for item in self.taken]

    def halves(self) -> tuple[Sequence[Item], Sequence[Item]]:
        """All in two parts, each with half of those that were claimed.

        The others go with them: what is known of one holds for its key only when all before it have come to an end.
        """
        middle = self.items.index(self.taken[(len(self.taken) + 1) // 2])
        return self.items[:middle], self.items[middle:]


class _Group:
    """Consecutive messages of one key, whose results are told together."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.told: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()

    @property
    def lane(self) -> str:
        return self.items[0].entry.lane


class Batches:
    """Gathers what is there for each handler of batches, and never waits for more.

    A batch holds consecutive messages of any number of keys. It has one place among the handlers that run at a time,
    also while it is halved.
    """

    def __init__(self, processing: Processing) -> None:
        self._processing = processing
        self._waiting: dict[str, deque[_Group]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def deal(self, items: Sequence[Item]) -> list[Result]:
        """Handle consecutive messages of one key, at most as many as the handler takes; gives what came of each.

        ``REFUSED`` was left out by the opening, and ``FAILED`` has failed alone. After such a one, what follows of its
        key is ``LEFT``, unless it was handled in the same transaction. Raises Stopped when the consumer stops while the
        database is away.
        """
        group = _Group(items)
        consumer = items[0].handler.consumer
        waiting = self._waiting.get(consumer)
        if waiting is None:
            waiting = self._waiting[consumer] = deque()
            self._start(self._gather(consumer, waiting), f"batches of {consumer}")
        waiting.append(group)
        return await group.told

    async def cancel(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _gather(self, consumer: str, waiting: deque[_Group]) -> None:
        """Start a batch whenever there is a place for one, until nothing waits."""
        slots = self._processing.slots
        try:
            while waiting:
                await slots.acquire()
                groups = _chosen(waiting)
                if groups:
                    self._start(self._handle(groups), f"batch of {consumer}").add_done_callback(
                        lambda _: slots.release()
                    )
                else:
                    slots.release()
        finally:
            del self._waiting[consumer]
            for group in waiting:
                group.told.cancel()

    async def _handle(self, groups: Sequence[_Group]) -> None:
        try:
            await self._halve(groups)
        except BaseException as error:
            for group in groups:
                if not group.told.done():
                    if isinstance(error, Exception):
                        group.told.set_exception(error)
                    else:
                        group.told.cancel()
            if not isinstance(error, Exception):
                raise

    async def _halve(self, groups: Sequence[_Group]) -> None:
        """Handle all in one transaction; of what fails, each half in one, and so on until a message fails alone.

        Every key stops at its first message that is not handled.
        """
        told: dict[Item, Result] = {}
        stopped: set[str] = set()
        parts: list[Sequence[Item]] = [[item for group in groups for item in group.items]]
        while parts:
            going = [item for item in parts.pop() if item.entry.lane not in stopped]
            if going:
                part, result = await self._attempt(going)
                if result.came is Came.FAILED and len(part.taken) > 1:
                    parts.extend(reversed(part.halves()))
                    continue
                told.update(_results(part, result))
                stopped.update(item.entry.lane for item in going if told[item].came in _STOPS)
            for group in groups:
                if not group.told.done() and (group.lane in stopped or all(item in told for item in group.items)):
                    group.told.set_result([told.get(item, LEFT) for item in group.items])

    async def _attempt(self, items: Sequence[Item]) -> tuple[Part, Result]:
        """Run the handler once for these; an outage is waited out."""
        processing, handler = self._processing, items[0].handler
        part = Part(items, processing.lanes.claims, processing.limit_of(handler))

        async def run() -> Result:
            make = partial(
                processing.run_of,
                handler,
                part.given,
                _subject(items),
                opening=part.open,
                stands=part.stands,
                around=partial(self._around, part),
            )
            result = await processing.execution.settle(make, processing.transact)
            if result.came is Came.OUTAGE and result.error is not None:
                raise result.error
            return result

        result = await processing.outages_of(handler).insist(run)
        if result.came is Came.FAILED and result.error is not None and len(part.taken) > 1:
            logger.info(
                "%s failed for a batch of %d, which is halved: %s",
                handler.consumer,
                len(part.taken),
                one_of(result.error),
            )
        return part, result

    def _around(self, part: Part) -> AbstractContextManager[object]:
        consumer, messages = part.items[0].handler.consumer, [item.entry.message for item in part.taken]
        if len(messages) == 1:
            return self._processing.around(Handling(messages[0], consumer, 1))
        return self._processing.around(HandlingBatch(messages, consumer))

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_STOPS = frozenset((Came.REFUSED, Came.FAILED))


def _results(part: Part, result: Result) -> Iterator[tuple[Item, Result]]:
    """Say what came of each message of a part."""
    taken = set(part.taken)
    for item in part.items:
        yield item, result if item in taken else Result(Came.REFUSED)


def _chosen(waiting: deque[_Group]) -> list[_Group]:
    """Take groups from what waits, in its order, as long as there is room for them in one batch."""
    chosen: list[_Group] = []
    passed: list[_Group] = []
    room = waiting[0].items[0].handler.batch or 1
    while waiting and room:
        group = waiting.popleft()
        if group.told.done():  # whoever handed it over was cancelled
            continue
        if len(group.items) > room:
            passed.append(group)
            continue
        chosen.append(group)
        room -= len(group.items)
    waiting.extendleft(reversed(passed))
    return chosen


def _subject(items: Sequence[Item]) -> str:
    message = items[0].entry.message
    first = f"{one_line(message.type)} {one_line(message.id)}"
    return first if len(items) == 1 else f"{len(items)} messages from {first} on"
