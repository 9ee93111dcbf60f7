"""Consecutive deliveries of one key: those for handlers of batches are dealt with together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice

from txpatterns.execution import Came
from txpatterns.inbox.batches import LEFT, Batches, Item
from txpatterns.inbox.deliveries import Deliveries, Ready
from txpatterns.inbox.entries import entry_of
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.standing import Standing
from txpatterns.runtime.outages import Stopped
from txpatterns.text import error_line
from txpatterns.transport import Delivery

logger = logging.getLogger("txpatterns")


class Runs:
    """Brings consecutive deliveries of one key to their end, in order, and acknowledges them."""

    def __init__(self, processing: Processing, deliveries: Deliveries, batches: Batches) -> None:
        self._processing = processing
        self._deliveries = deliveries
        self._batches = batches
        self.at_once = 1
        """How many deliveries any handler takes together, at most."""

    def begin(self, waiting: Iterable[Delivery]) -> tuple[int, Callable[[], Awaitable[None]]]:
        """Say how many of these deliveries begin now, from the first on, and give what brings them to their end.

        They are one, or several for handlers of batches. By itself goes what none of those takes, what cannot be read,
        and what may have ended the process that handled it before. The work raises Stopped when the consumer stops
        before the end.
        """
        together: list[Ready] = []
        for delivery in islice(waiting, self.at_once):
            ready = self._deliveries.ready(delivery) if self.at_once > 1 else None
            if ready is not None:
                together.append(ready)
            elif together:
                break
            else:
                return 1, partial(self._deliveries.handle, delivery)
        return len(together), partial(self._handle, together)

    async def _handle(self, together: Sequence[Ready]) -> None:
        try:
            await self._settle(together)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - each by itself, until it is known whose it is
            logger.info("%d messages are dealt with one by one: %s", len(together), error_line(error))
            for ready in together:
                await self._deliveries.handle(ready.delivery)
            return
        for ready in together:
            await self._deliveries.done(ready.delivery)

    async def _settle(self, together: Sequence[Ready]) -> None:
        pairs = [(handler, ready) for ready in together for handler in ready.takers]
        for consumer in dict.fromkeys(handler.consumer for handler, _ in pairs):
            items = [
                Item(handler, ready.event, entry_of(consumer, ready.message))
                for handler, ready in pairs
                if handler.consumer == consumer
            ]
            if items[0].handler.batch is not None:
                await self._deal(items, items[0].handler.batch)
                continue
            for item in items:
                await self._deliveries.deal(item.handler, item.event, item.entry, suspect=False)

    async def _deal(self, items: Sequence[Item], most: int) -> None:
        """Bring messages of one key to their end at one handler; looks again while their lane is changing hands."""
        looks = 0
        while items:
            part, rest = items[:most], items[most:]
            left: list[Item] = []
            again = False
            for item, result in zip(part, await self._batches.deal(part), strict=True):
                if result is LEFT or (left and result.came not in _ENDS):
                    left.append(item)
                    continue
                standing = await self._deliveries.conclude(item.handler, item.entry, result)
                if standing is Standing.AGAIN:
                    left.append(item)
                    again = True
                else:
                    self._processing.tell(standing, item.entry)
            items = [*left, *rest]
            looks += again
            if again and looks > 1:
                await self._processing.until_freed()
            if items and self._processing.outages.stopping.is_set():
                raise Stopped


_ENDS = frozenset((Came.DONE, Came.ENDED))
