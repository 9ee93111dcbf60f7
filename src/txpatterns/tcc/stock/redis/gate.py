"""The way to Redis and to the ledger behind it: what is asked at the same time travels together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, TypeVar

from txpatterns.clock import Clock
from txpatterns.errors import StockUnavailable, TxPatternsError
from txpatterns.tcc.stock.batches import Batches
from txpatterns.tcc.stock.ledger import Held, Ledger, Verdict
from txpatterns.tcc.stock.redis.connections import Connections, RedisError, is_broken_off, text
from txpatterns.tcc.stock.redis.rebuilding import Keys, Rebuilding
from txpatterns.tcc.stock.redis.scripts import Script, instant, milliseconds
from txpatterns.text import error_line

T = TypeVar("T")
Asked = tuple[Script, Sequence[str]]


class Answer(NamedTuple):
    """What a script has answered, and under which generation."""

    word: str
    told: Sequence[str]
    generation: int


logger = logging.getLogger("txpatterns")

_LOST = "Redis has lost something, and is being rebuilt from the ledger."
_REFUSALS = ("closed", "lost")
_MOST, _AT_ONCE = 128, 4


class Gate:
    """Asks Redis under the present generation, and closes when it has lost something, until that is rebuilt."""

    def __init__(self, connections: Connections, ledger: Ledger, keys: Keys, clock: Clock) -> None:
        self.ledger = ledger
        self._connections = connections
        self._keys = keys
        self._clock = clock
        self._rebuilding = Rebuilding(connections, ledger, keys)
        self._generation: int | None = None
        """What Redis serves, as far as we know; None: it is closed."""
        self._seen = 0
        """The highest number of this generation that we know of: Redis must never fall behind it."""
        self._suspect = 0
        """Up to here, generations are known to have lost something, whatever Redis says."""
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._calls: Batches[Asked, Answer] = Batches(self._send, most=_MOST, at_once=_AT_ONCE)
        self._keeping: Batches[tuple[Held, int], Held] = Batches(self._keep, most=_MOST, at_once=_AT_ONCE)

    @property
    def is_open(self) -> bool:
        """Whether Redis served when it was asked last."""
        return self._generation is not None

    async def ask(self, script: Script, *arguments: str) -> Answer:
        """Run a script in Redis.

        Raises:
            StockUnavailable: it is away or being rebuilt. Whether the script has run is not known.
        """
        return await self._calls.ask((script, arguments))

    async def keep(self, held: Held, generation: int) -> Held:
        """Write down what Redis has reserved, as it said under this generation; gives how that stands in the ledger.

        Raises:
            StockUnavailable: it was not written down, or nobody knows.
        """
        return await self._keeping.ask((held, generation))

    def distrust(self, generation: int) -> StockUnavailable:
        """Have Redis rebuilt, which has lost something of this generation without knowing it."""
        self._suspect = max(self._suspect, generation)
        return self._close(generation)

    async def open(self) -> None:
        """Look whether Redis has what the ledger has, and rebuild it where it has not and nobody else is at it.

        Raises:
            UnsafeSettings: this Redis may evict what is stored.
            Exception: whatever Redis, or the ledger, raises.
        """
        async with self._opening:
            if self._generation is None:
                place = await self._rebuilding.place(self._suspect)
                if place is not None:
                    self._seen, self._generation = place.number, place.generation

    async def close(self) -> None:
        """Wait until what is under way has ended."""
        await self._calls.close()
        await self._keeping.close()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def from_ledger(self, work: Awaitable[T]) -> T:
        """Give what the ledger answers.

        Raises:
            StockUnavailable: it could not be asked.
        """
        try:
            return await work
        except TxPatternsError:
            raise
        except Exception as error:
            raise StockUnavailable(f"The ledger could not be asked: {error_line(error)}.") from error

    async def _send(self, asked: Sequence[Asked]) -> list[Answer]:
        generation, server = self._generation, self._connections.server
        if generation is None:
            raise self._close(None)
        head = [str(generation), str(self._seen), server, self._now()]
        calls = [(script, self._keys.data, [*head, *arguments]) for script, arguments in asked]
        try:
            answers = [[text(each) for each in answer] for answer in await self._connections.run(calls)]
        except RedisError as error:
            if is_broken_off(error):
                raise self.distrust(generation) from error
            raise
        # A new connection may lead to another server, or to this one as it was some time ago.
        if self._connections.server != server or any(answer[0] in _REFUSALS for answer in answers):
            raise self._close(generation)
        if generation == self._generation:
            self._seen = max(self._seen, *(int(answer[1]) for answer in answers))
        return [Answer(word, told, generation) for word, _, *told in answers]

    async def _keep(self, asked: Sequence[tuple[Held, int]]) -> list[Held]:
        generation = max(given for _, given in asked)
        held = [each for each, given in asked if given == generation]
        kept = await self.from_ledger(self.ledger.keep(held, generation))
        if kept.verdict is Verdict.EXCEEDED:
            raise self.distrust(generation)
        if kept.verdict is Verdict.FENCED or len(held) < len(asked):
            raise self._close(generation if kept.verdict is Verdict.FENCED else None)
        return [kept.entries[each.reservation.id] for each, _ in asked]

    def _close(self, generation: int | None) -> StockUnavailable:
        """Ask no more under a generation; what is there now is found out in the background."""
        if self._generation == generation:
            self._generation = None
        if self._generation is None and self._task is None:
            self._task = asyncio.create_task(self._reopen())
        return StockUnavailable(_LOST)

    async def _reopen(self) -> None:
        try:
            await self.open()
        except Exception as error:  # noqa: BLE001 - of Redis, a driver or the ledger; the next call begins again
            logger.warning("stock: Redis is not rebuilt yet: %s", error_line(error))
        finally:
            self._task = None

    def _now(self) -> str:
        standing = self._clock.instant
        return milliseconds(self._clock.offset) if standing is None else f"={instant(standing)}"
