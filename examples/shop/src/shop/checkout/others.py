"""Who the checkout's saga asks, wherever they live."""

from __future__ import annotations

from dataclasses import dataclass

from shop import ports
from shop.checkout.reserving import Reserving


@dataclass(slots=True)
class CheckoutOthers:
    """Who the checkout's saga asks for something."""

    inventory: ports.Inventory
    payments: ports.Payments
    over_loopback: bool = False
    """Whether they live in this process, and are to be asked over loopback all the same, as from another one."""
    reserving: Reserving | None = None
    """Known before the service runs."""
