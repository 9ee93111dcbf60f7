"""What becomes of reservations whose time is over: whoever decides is asked."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from txpatterns.tcc.stock.contract import Stock
from txpatterns.text import error_line, one_line

logger = logging.getLogger("txpatterns")


class Decision(StrEnum):
    """What is to become of a reservation whose time is over. CONFIRM and CANCEL are final: nobody decides otherwise."""

    CONFIRM = "confirm"
    CANCEL = "cancel"
    OPEN = "open"
    """It is not decided, so it stays as it is, and is asked for again."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many reservations were confirmed, canceled, and left as they are."""

    confirmed: int = 0
    canceled: int = 0
    left: int = 0


async def sweep(stock: Stock, decision: Callable[[str], Awaitable[Decision]], *, most: int = 100) -> Swept:
    """Ask for each reservation whose time is over what is to become of it, and do that; says how many went which way.

    A reservation has no end of its own: if it had, a confirmation that takes long would find its goods sold to somebody
    else. Where ``decision`` raises, or says OPEN, the reservation stays set aside. Any number of processes may sweep.

    Raises:
        StockUnavailable: the stock cannot answer now.
    """
    counts = {Decision.CONFIRM: 0, Decision.CANCEL: 0, Decision.OPEN: 0}
    for reservation_id in await stock.overdue(most):
        counts[await _settle(stock, reservation_id, decision)] += 1
    return Swept(counts[Decision.CONFIRM], counts[Decision.CANCEL], counts[Decision.OPEN])


async def _settle(stock: Stock, reservation_id: str, decision: Callable[[str], Awaitable[Decision]]) -> Decision:
    try:
        decided = Decision(await decision(reservation_id))
        if decided is Decision.CONFIRM:
            await stock.confirm(reservation_id)
        elif decided is Decision.CANCEL:
            await stock.cancel(reservation_id)
    except Exception as error:  # noqa: BLE001 - of whoever decides, or of one reservation: the others are asked for all the same
        logger.warning("reservation %s stays set aside: %s", one_line(reservation_id), error_line(error))
        return Decision.OPEN
    return decided
