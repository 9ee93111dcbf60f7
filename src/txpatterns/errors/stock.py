"""Errors of stock: what a reservation is told."""

from __future__ import annotations

from collections.abc import Mapping

from txpatterns.errors.base import TxPatternsError


class StockError(TxPatternsError):
    """Something about stock."""

    code = "TXP-1950"


class StockInputInvalid(StockError):
    """What was asked of a stock is no item, quantity, id or time that it can take; nothing has changed."""

    code = "TXP-1951"
    fix = "Give texts as ids and items, whole numbers from 1 as quantities, and a time with a zone that is not far off."


class UnknownItem(StockError):
    """The stock has never heard of an item, which is not the same as having none of it."""

    code = "TXP-1952"
    fix = "Tell the stock of it first: load({item: quantity})."


class OutOfStock(StockError):
    """There is too little of an item; nothing was reserved.

    ``short`` has each item of which there is too little, with how many were available. The answer stands: this
    reservation stays refused, also when more has come.
    """

    code = "TXP-1953"
    fix = "Ask for less, or later, with the id of another reservation."

    def __init__(self, reservation_id: str, short: Mapping[str, int]) -> None:
        shown = ", ".join(f"{item} ({available} available)" for item, available in sorted(short.items()))
        super().__init__(f"Too little for reservation {reservation_id}: {shown}.")
        self.reservation_id = reservation_id
        self.short = dict(short)


class ReservationReused(StockError):
    """A reservation's id was used before, for other lines."""

    code = "TXP-1954"
    fix = "Give each reservation an id of its own, and repeat it with the lines that it had."


class ReservationEnded(StockError):
    """The reservation has ended, so that this cannot be done any more.

    ``state`` says how: ``sold``, ``released`` or ``refused``.
    """

    code = "TXP-1955"
    fix = "Look at its state: what is sold is not released, and what is released or refused is not sold."

    def __init__(self, reservation_id: str, state: str) -> None:
        super().__init__(f"Reservation {reservation_id} is {state}.")
        self.reservation_id = reservation_id
        self.state = state


class UnknownReservation(StockError):
    """There is no such reservation."""

    code = "TXP-1956"
    fix = "Reserve first, and confirm what that has answered; ended ones are forgotten after `keep`."


class ReservationExpired(StockError):
    """A reservation arrived after the time at which it was to end; nothing was reserved."""

    code = "TXP-1957"
    fix = "Reserve again with the id of another reservation, and compare the clocks of the two machines."


class StockUnavailable(StockError):
    """The stock cannot answer now, and gives nothing away: its Redis is away, or is being rebuilt from the ledger.

    What was asked for may have happened. Repeated with the same id, it happens once.
    """

    code = "TXP-1958"
    fix = "Repeat it a little later, with the same id."
