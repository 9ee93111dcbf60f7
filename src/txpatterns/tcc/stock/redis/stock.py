"""A stock in Redis: quick, and in front of a ledger that has the last word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import ConfigurationError, ReservationEnded, StockUnavailable, UnknownReservation
from txpatterns.tcc.stock.answers import not_known, reserved, too_far, too_late
from txpatterns.tcc.stock.contract import Level, Lines, Reservation, State
from txpatterns.tcc.stock.ledger import Held, Ledger, Settled, Total
from txpatterns.tcc.stock.limits import (
    Limits,
    checked_name,
    checked_names,
    checked_quantities,
    checked_quantity,
    checked_time,
    wished,
    written,
)
from txpatterns.tcc.stock.redis.connections import Connections, Redis, RedisError
from txpatterns.tcc.stock.redis.gate import Gate
from txpatterns.tcc.stock.redis.rebuilding import Keys
from txpatterns.tcc.stock.redis.scripts import (
    COUNT,
    LEVELS,
    OVERDUE,
    PROLONG,
    RECORD,
    RESERVE,
    SETTLE,
    instant,
    milliseconds,
    read_record,
)
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

_MOST_OVERDUE = 1000


class RedisStock:
    """A `Stock` of which Redis answers who wants too much, and a ledger keeps who got something.

    A reservation is answered when it is in the ledger; a confirmation and a cancellation are written there first. What
    Redis has lost is noticed, and rebuilt from the ledger; until then every call raises `StockUnavailable`.

    ``redis`` is a URL, to which ``options`` go as they are, or a ``redis.asyncio.Redis`` that nobody else uses, such as
    a Sentinel's. ``name`` tells several stocks in one Redis apart; each needs a ledger of its own. Enter it with
    ``async with``, in the event loop that uses it.
    """

    def __init__(
        self,
        redis: str | Redis,
        ledger: Ledger,
        *,
        name: str = "stock",
        limits: Limits | None = None,
        clock: Clock | None = None,
        patience: timedelta = timedelta(seconds=30),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not name or not name.isprintable() or set(name) & set("{}"):
            raise ConfigurationError(f"{name!r} is no name for keys in Redis.", fix="Give letters, digits and hyphens.")
        self.limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._patience = patience
        self._connections = Connections(redis, options or {})
        self._ledger = ledger
        self._gate = Gate(self._connections, ledger, Keys(name), self._clock)
        self._times = [milliseconds(self.limits.skew), milliseconds(self.limits.longest)]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Wait until Redis has what the ledger has, and rebuild it where it has not.

        Raises:
            StockUnavailable: that takes longer than ``patience``.
            UnsafeSettings: this Redis may evict what is stored.
        """
        give_up = self._clock.monotonic() + self._patience.total_seconds()
        never = asyncio.Event()
        while not await self._is_open():
            if self._clock.monotonic() >= give_up:
                raise StockUnavailable(f"Redis could not be made ready within {self._patience}.")
            await self._clock.wait(never, timedelta(milliseconds=50))

    async def close(self) -> None:
        """Finish what is under way, and close the connections. Twice is harmless."""
        await self._gate.close()
        await self._connections.close()

    async def reserve(self, reservation_id: str, lines: Lines, expires_at: datetime) -> Reservation:
        """Set aside what is wanted, all of it or nothing. As `Stock.reserve`."""
        wish = wished(reservation_id, lines, expires_at)
        answer = await self._gate.ask(RESERVE, wish.id, written(wish.lines), instant(wish.until), *self._times)
        match answer.word:
            case "late":
                raise too_late(wish)
            case "far":
                raise too_far(wish.id, self.limits.longest)
            case "unknown":
                raise not_known(answer.told)
        held = read_record(wish.id, answer.told[0])
        if reserved(held.reservation, wish.lines).state is not State.HELD:
            return held.reservation
        kept = await self._gate.keep(held, answer.generation)
        if kept.reservation.state is State.HELD and kept.hold != held.hold:
            raise self._gate.distrust(answer.generation)
        if kept.reservation.state is not State.HELD:
            await self._settle(wish.id, kept.reservation.state, Settled(False, kept.hold))
        return reserved(kept.reservation, wish.lines)

    async def confirm(self, reservation_id: str) -> bool:
        """Take what is set aside out of the stock for good. As `Stock.confirm`."""
        try:
            settled = await self._gate.from_ledger(self._ledger.confirm(checked_name("id", reservation_id)))
        except UnknownReservation:
            refused = await self._record(reservation_id)
            if refused is not None and refused.reservation.state is State.REFUSED:
                raise ReservationEnded(reservation_id, State.REFUSED) from None
            raise
        await self._settle(reservation_id, State.SOLD, settled)
        return settled.changed

    async def cancel(self, reservation_id: str) -> bool:
        """Make what is set aside available again. As `Stock.cancel`."""
        settled = await self._gate.from_ledger(self._ledger.cancel(checked_name("id", reservation_id)))
        await self._settle(reservation_id, State.RELEASED, settled)
        return settled.changed

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when `sweep` asks. As `Stock.prolong`."""
        until = checked_time(expires_at)
        changed = await self._gate.from_ledger(self._ledger.prolong(checked_name("id", reservation_id), until))
        if changed:
            await self._gate.ask(PROLONG, reservation_id, instant(until))
        return changed

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Tell the stock of items that it does not know yet. As `Stock.load`."""
        wanted = checked_quantities(quantities)
        new = await self._gate.from_ledger(self._ledger.load(wanted))
        totals = await self._gate.from_ledger(self._ledger.totals(wanted))
        await asyncio.gather(*(self._count(item, total) for item, total in totals.items()))
        return new

    async def set_available(self, item: str, quantity: int) -> None:
        """Say how many of an item are available now. As `Stock.set_available`."""
        checked_quantity(item, quantity)
        total = await self._gate.from_ledger(self._ledger.set_available(item, quantity))
        await self._count(item, total)

    async def levels(self, items: Iterable[str]) -> Mapping[str, Level]:
        """Give the levels of these items. As `Stock.levels`."""
        told = (await self._gate.ask(LEVELS, *checked_names("item", items))).told
        return {
            told[n]: Level(max(0, int(told[n + 1])), int(told[n + 2]), int(told[n + 3])) for n in range(0, len(told), 4)
        }

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands; None where there is none."""
        kept = await self._gate.from_ledger(self._ledger.reservation(checked_name("id", reservation_id)))
        if kept is not None:
            return kept
        found = await self._record(reservation_id)
        return found.reservation if found is not None and found.reservation.state is State.REFUSED else None

    async def overdue(self, most: int = 100) -> Sequence[str]:
        """Give reservations that are set aside though their time is over, the oldest first.

        Among them are those that Redis has set aside for a caller that never got its answer.
        """
        return (await self._gate.ask(OVERDUE, str(min(most, _MOST_OVERDUE)))).told

    async def _is_open(self) -> bool:
        try:
            await self._gate.open()
        except (OSError, RedisError, StockUnavailable) as error:
            logger.warning("stock: Redis is not ready yet: %s", error_line(error))
        return self._gate.is_open

    async def _record(self, reservation_id: str) -> Held | None:
        (record,) = (await self._gate.ask(RECORD, reservation_id)).told
        return read_record(reservation_id, record) if record else None

    async def _count(self, item: str, total: Total) -> None:
        await self._gate.ask(COUNT, item, str(total.version), str(total.total))

    async def _settle(self, reservation_id: str, state: State, settled: Settled) -> None:
        """Tell Redis what the ledger says."""
        await self._gate.ask(SETTLE, reservation_id, state, str(settled.hold), *self._times)
