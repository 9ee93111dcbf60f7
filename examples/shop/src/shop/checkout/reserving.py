"""Who reserves something for a checkout in more than one service: participants of TCC, asked over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from shop.events import CheckoutRequested, OrderLine
from shop.money import Money
from shop.reductions import Reduction
from txpatterns import App
from txpatterns.integrations.tcc_http import TccRemote
from txpatterns.tcc import BranchCall, Participant

Lines: TypeAlias = tuple[OrderLine, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """What a checkout asks a participant for; ``reason`` is why it fails, in one word, when that is refused."""

    participant: Participant[..., None]
    arguments: tuple[Any, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Reserving:
    """The three participants of a checkout with a coupon or credit: each tries, and then all confirm or all cancel."""

    stock: Participant[[str, str, Lines], None]
    coupon: Participant[[str, str, str, Money, Money], None]
    credit: Participant[[str, str, Money], None]

    def needs(self, order: CheckoutRequested, cut: Reduction) -> list[Need]:
        """Say what an order with this reduction needs."""
        needs = [Need(self.stock, (order.order_id, order.pay_by.isoformat(), order.lines), "out_of_stock")]
        if cut.coupon is not None:
            asked = (order.order_id, order.visitor_id, cut.coupon, order.total, cut.discount)
            needs.append(Need(self.coupon, asked, "coupon"))
        if cut.credit.minor:
            needs.append(Need(self.credit, (order.order_id, order.visitor_id, cut.credit), "credit"))
        return needs


def remote_participants(app: App, urls: Mapping[str, str], secret: str) -> Reserving:
    """Register the participants with the checkout's App.

    Args:
        app: The checkout's.
        urls: Where the services answer for their participants, by the names of the services.
        secret: What the requests are signed with.
    """
    inventory, pricing, wallet = (TccRemote(urls[name], secret) for name in ("inventory", "pricing", "wallet"))

    @inventory.participant(app.tcc, "stock")
    async def stock(call: BranchCall, order_id: str, until: str, lines: Lines) -> None: ...

    @pricing.participant(app.tcc, "coupon")
    async def coupon(
        call: BranchCall, order_id: str, visitor_id: str, code: str, total: Money, discount: Money
    ) -> None: ...

    @wallet.participant(app.tcc, "credit")
    async def credit(call: BranchCall, order_id: str, visitor_id: str, amount: Money) -> None: ...

    return Reserving(stock, coupon, credit)
