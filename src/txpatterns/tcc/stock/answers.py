"""What a call is answered, by how its reservation stands: the same in every stock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from txpatterns.errors import (
    OutOfStock,
    ReservationEnded,
    ReservationExpired,
    ReservationReused,
    StockInputInvalid,
    UnknownItem,
    UnknownReservation,
)
from txpatterns.tcc.stock.contract import Reservation, State
from txpatterns.tcc.stock.limits import Wish


def reserved(found: Reservation, wanted: Mapping[str, int]) -> Reservation:
    """Answer who reserves, once the reservation is there.

    Raises:
        ReservationEnded: it is released, or sold and ended.
        ReservationReused: it has other lines.
        OutOfStock: it was refused.
    """
    if found.state is State.RELEASED and not found.lines:
        raise ReservationEnded(found.id, found.state)
    if dict(found.lines) != dict(wanted):
        raise ReservationReused(f"Reservation {found.id} was made for other lines.")
    if found.state is State.REFUSED:
        raise OutOfStock(found.id, found.short)
    if found.state is State.RELEASED:
        raise ReservationEnded(found.id, found.state)
    return found


def must_be(wanted: State, reservation_id: str, state: State | None) -> None:
    """Refuse a call that leads to ``wanted`` where the reservation has ended in another way.

    Raises:
        UnknownReservation: there is none.
        ReservationEnded: it has.
    """
    if state is None:
        raise UnknownReservation(f"There is no reservation {reservation_id}.")
    if state is not wanted:
        raise ReservationEnded(reservation_id, state)


def must_not_be_sold(reservation_id: str, state: State | None) -> None:
    """Refuse to cancel what is sold.

    Raises:
        ReservationEnded: it is.
    """
    if state is State.SOLD:
        raise ReservationEnded(reservation_id, state)


def too_late(wish: Wish) -> ReservationExpired:
    """Tell that a reservation arrives when its time is over."""
    return ReservationExpired(f"Reservation {wish.id} was to end at {wish.until:%Y-%m-%d %H:%M:%S} UTC.")


def too_far(reservation_id: str, longest: timedelta) -> StockInputInvalid:
    """Tell that a reservation's time is farther ahead than the stock is sure to remember cancellations."""
    return StockInputInvalid(
        f"Reservation {reservation_id} is to last for more than {longest}.",
        fix="Give it a nearer time, or the stock other Limits.",
    )


def not_known(items: Iterable[str]) -> UnknownItem:
    """Tell which items the stock has never heard of."""
    return UnknownItem(f"The stock has never heard of {', '.join(sorted(items))}.")
