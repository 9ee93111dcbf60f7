"""The wallet's part in a checkout: credit is set aside, and then it is spent, or given back."""

from __future__ import annotations

from shop.events import CreditHeld, CreditReleased, CreditSpent
from shop.money import Money
from shop.wallet import books
from shop.wallet.domain import CURRENCY, NotEnough
from txpatterns import App, Reject
from txpatterns.tcc import BranchTransaction


def take_part(app: App) -> None:
    """Let credit be reserved, confirmed and canceled in the transactions of others."""

    @app.tcc.participant("credit")
    async def credit(tx: BranchTransaction, order_id: str, visitor_id: str, amount: Money) -> None:
        if amount.currency != CURRENCY or amount.minor <= 0:
            raise Reject(f"{amount} cannot be set aside")
        try:
            await books.hold(tx.session, visitor_id, order_id, amount.minor)
        except NotEnough as short:
            raise Reject("there is less credit than that") from short
        tx.emit(CreditHeld(order_id=order_id, amount=amount))

    @credit.confirm
    async def spend(tx: BranchTransaction, order_id: str, visitor_id: str, amount: Money) -> None:
        await books.spend(tx.session, visitor_id, order_id, amount.minor)
        tx.emit(CreditSpent(order_id=order_id, amount=amount))

    @credit.cancel
    async def give_back(tx: BranchTransaction, order_id: str, visitor_id: str, amount: Money) -> None:
        await books.release(tx.session, visitor_id, order_id, amount.minor)
        tx.emit(CreditReleased(order_id=order_id, amount=amount))
