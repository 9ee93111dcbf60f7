"""Who waits until all is published. Each has a number, so that one look at the table serves all who asked before it."""

from __future__ import annotations

import asyncio

from txpatterns.errors import ConfigurationError


class Drains:
    """The futures of those who wait, in the order in which they asked."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    @property
    def asked(self) -> int:
        """The number of who asked last and still waits; 0 when nobody does."""
        return next(reversed(self._waiting), 0)

    def ask(self) -> asyncio.Future[None]:
        """Give a future that is done when all that was committed until now is published."""
        self._last += 1
        drain = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        return drain

    def end(self, up_to: int) -> None:
        """Tell all who asked up to this number that everything is published."""
        for drain in self._take(up_to):
            drain.set_result(None)

    def stopped(self) -> None:
        """Tell all who wait that the relay has stopped before everything was published."""
        for drain in self._take(self._last):
            drain.set_exception(
                ConfigurationError(
                    "The relay stopped before everything was published.",
                    fix="Nothing is lost: the next relay that runs publishes it.",
                )
            )
            drain.exception()  # counts as seen, for a caller that is cancelled before it hears of it

    def _take(self, up_to: int) -> list[asyncio.Future[None]]:
        """Give those up to a number who still listen, and forget them."""
        numbers = [number for number in self._waiting if number <= up_to]
        return [drain for drain in map(self._waiting.pop, numbers) if not drain.done()]
