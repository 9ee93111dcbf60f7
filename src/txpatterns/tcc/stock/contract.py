"""What every stock can do, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

Lines = Mapping[str, int] | Iterable[tuple[str, int]]
"""What to reserve: items and quantities. Several lines of one item are added up."""


class State(StrEnum):
    """How a reservation stands."""

    HELD = "held"
    """Its quantities are set aside."""
    SOLD = "sold"
    """It is confirmed: they are gone for good."""
    RELEASED = "released"
    """It is canceled: they are available again. Or it was canceled before it was made, and never is."""
    REFUSED = "refused"
    """There was too little, and nothing was set aside."""


@dataclass(frozen=True, slots=True)
class Level:
    """How much there is of an item. Reservations move it from one part to another, and never change the sum."""

    available: int
    reserved: int = 0
    sold: int = 0

    @property
    def total(self) -> int:
        """What was ever stocked, less what was taken out of the books."""
        return self.available + self.reserved + self.sold


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is set aside under one id."""

    id: str
    state: State
    lines: Mapping[str, int]
    """Items and their quantities, in the order of the items."""
    expires_at: datetime | None
    """When to ask whether it is still wanted; none, if it was canceled before it was made."""
    prolonged: bool = False
    short: Mapping[str, int] = field(default_factory=dict)
    """Of a refused one: the items of which there was too little, with how many were available then."""


class Stock(Protocol):
    """Quantities of items, set aside under an id: all of a reservation's lines, or none.

    Whatever is called again with the same id has its effect once, and answers as before, also at the same time from
    several processes. A cancellation that comes first shuts its reservation out.
    """

    async def reserve(self, reservation_id: str, lines: Lines, expires_at: datetime) -> Reservation:
        """Set aside what is wanted, all of it or nothing.

        ``expires_at`` is when `sweep` asks whether it is still wanted. It does not end by itself.

        Raises:
            OutOfStock: there is too little; ``short`` says of what.
            UnknownItem: the stock has never heard of an item.
            ReservationEnded: it was canceled before, or sold and is ended.
            ReservationReused: the id stands for other lines.
            ReservationExpired: it arrives after ``expires_at``.
            StockInputInvalid: the id, the lines or the time cannot be right.
            StockUnavailable: the stock cannot answer now.
        """

    async def confirm(self, reservation_id: str) -> bool:
        """Take what is set aside out of the stock for good; says whether this call did it, and not an earlier one.

        Raises:
            UnknownReservation: nothing was ever set aside under this id.
            ReservationEnded: it was canceled or refused.
        """

    async def cancel(self, reservation_id: str) -> bool:
        """Make what is set aside available again; says whether this call did it.

        Where nothing is set aside yet, nothing ever will be under this id.

        Raises:
            ReservationEnded: it is sold.
        """

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when `sweep` asks: when the payment starts. Says whether this call did it.

        A second time changes nothing, and an earlier time than before neither.

        Raises:
            UnknownReservation: nothing was ever set aside under this id.
            ReservationEnded: it has ended.
        """

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Tell the stock of items that it does not know yet; gives which these were. The others stay as they are."""

    async def set_available(self, item: str, quantity: int) -> None:
        """Say how many of an item are available now, besides what is reserved and sold: after goods have come, or a
        count. What is reserved at the same moment counts as reserved before or after.
        """

    async def levels(self, items: Iterable[str]) -> Mapping[str, Level]:
        """Give the levels of these items; one that the stock does not know is left out."""

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands; None where there is none."""

    async def overdue(self, most: int = 100) -> Sequence[str]:
        """Give reservations that are set aside though their time is over, the oldest first."""
