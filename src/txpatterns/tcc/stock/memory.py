"""A stock in memory: for tests, and for programs that need none of it after their end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from txpatterns.clock import Clock, SystemClock
from txpatterns.tcc.stock.answers import must_be, must_not_be_sold, not_known, reserved, too_far, too_late
from txpatterns.tcc.stock.contract import Level, Lines, Reservation, State
from txpatterns.tcc.stock.limits import (
    Limits,
    checked_name,
    checked_names,
    checked_quantities,
    checked_quantity,
    checked_time,
    wished,
)


@dataclass(frozen=True, slots=True)
class _Kept:
    reservation: Reservation
    forget_at: datetime | None = None
    """When an ended one needs to be remembered no longer."""


class MemoryStock:
    """A `Stock` of one event loop, gone with its process. No call of it waits, so that each is whole."""

    def __init__(self, limits: Limits | None = None, *, clock: Clock | None = None) -> None:
        self.limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._levels: dict[str, Level] = {}
        self._kept: dict[str, _Kept] = {}

    async def reserve(self, reservation_id: str, lines: Lines, expires_at: datetime) -> Reservation:
        """Set aside what is wanted, all of it or nothing. As `Stock.reserve`."""
        wish = wished(reservation_id, lines, expires_at)
        wanted, until = wish.lines, wish.until
        kept = self._kept.get(reservation_id)
        if kept is not None:
            return reserved(kept.reservation, wanted)
        now = self._clock.now()
        if now > until + self.limits.skew:
            raise too_late(wish)
        if until > now + self.limits.longest:
            raise too_far(reservation_id, self.limits.longest)
        unknown = [item for item in wanted if item not in self._levels]
        if unknown:
            raise not_known(unknown)
        short = {item: self._levels[item].available for item, n in wanted.items() if self._levels[item].available < n}
        made = Reservation(reservation_id, State.REFUSED if short else State.HELD, wanted, until, short=short)
        if short:
            self._end(made, now)
        else:
            self._kept[reservation_id] = _Kept(made)
            self._move(wanted, available=-1, reserved=1)
        return reserved(made, wanted)

    async def confirm(self, reservation_id: str) -> bool:
        """Take what is set aside out of the stock for good. As `Stock.confirm`."""
        held = self._held(reservation_id)
        if held is None:
            must_be(State.SOLD, reservation_id, self._state(reservation_id))
            return False
        self._end(replace(held, state=State.SOLD), self._clock.now())
        self._move(held.lines, reserved=-1, sold=1)
        return True

    async def cancel(self, reservation_id: str) -> bool:
        """Make what is set aside available again. As `Stock.cancel`."""
        held = self._held(reservation_id)
        if held is None:
            must_not_be_sold(reservation_id, self._state(reservation_id))
            if reservation_id not in self._kept:
                self._end(Reservation(reservation_id, State.RELEASED, {}, None), self._clock.now())
            return False
        self._end(replace(held, state=State.RELEASED), self._clock.now())
        self._move(held.lines, available=1, reserved=-1)
        return True

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when `sweep` asks. As `Stock.prolong`."""
        until = checked_time(expires_at)
        if until > self._clock.now() + self.limits.longest:
            raise too_far(reservation_id, self.limits.longest)
        held = self._held(reservation_id)
        if held is None or held.expires_at is None:
            must_be(State.HELD, reservation_id, self._state(reservation_id))
            return False
        if held.prolonged or until <= held.expires_at:
            return False
        self._kept[reservation_id] = _Kept(replace(held, expires_at=until, prolonged=True))
        return True

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Tell the stock of items that it does not know yet. As `Stock.load`."""
        new = {item: n for item, n in checked_quantities(quantities).items() if item not in self._levels}
        self._levels.update((item, Level(n)) for item, n in new.items())
        return list(new)

    async def set_available(self, item: str, quantity: int) -> None:
        """Say how many of an item are available now. As `Stock.set_available`."""
        checked_quantity(item, quantity)
        self._levels[item] = replace(self._levels.get(item, Level(0)), available=quantity)

    async def levels(self, items: Iterable[str]) -> Mapping[str, Level]:
        """Give the levels of these items. As `Stock.levels`."""
        return {item: self._levels[item] for item in checked_names("item", items) if item in self._levels}

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands; None where there is none."""
        kept = self._kept.get(checked_name("id", reservation_id))
        return None if kept is None else kept.reservation

    async def overdue(self, most: int = 100) -> Sequence[str]:
        """Give reservations that are set aside though their time is over, the oldest first."""
        now = self._clock.now()
        over = [
            (kept.reservation.expires_at, kept.reservation.id)
            for kept in self._kept.values()
            if kept.reservation.state is State.HELD
            and kept.reservation.expires_at is not None
            and kept.reservation.expires_at <= now
        ]
        return [reservation_id for _, reservation_id in sorted(over)[:most]]

    async def forget(self) -> int:
        """Forget ended reservations that were to be remembered until now; says how many."""
        now = self._clock.now()
        before = len(self._kept)
        self._kept = {
            reservation_id: kept
            for reservation_id, kept in self._kept.items()
            if kept.forget_at is None or kept.forget_at > now
        }
        return before - len(self._kept)

    def _held(self, reservation_id: str) -> Reservation | None:
        kept = self._kept.get(checked_name("id", reservation_id))
        return kept.reservation if kept is not None and kept.reservation.state is State.HELD else None

    def _state(self, reservation_id: str) -> State | None:
        kept = self._kept.get(reservation_id)
        return None if kept is None else kept.reservation.state

    def _end(self, ended: Reservation, now: datetime) -> None:
        kept_from = max(now, ended.expires_at or now)
        self._kept[ended.id] = _Kept(ended, kept_from + self.limits.keep)

    def _move(self, lines: Mapping[str, int], *, available: int = 0, reserved: int = 0, sold: int = 0) -> None:
        for item, n in lines.items():
            was = self._levels[item]
            self._levels[item] = Level(was.available + available * n, was.reserved + reserved * n, was.sold + sold * n)
