"""What the wallet answers."""

from __future__ import annotations

from shop.money import Money
from shop.ports import Wallet
from shop.wallet.domain import CURRENCY, WELCOME_MINOR
from shop.wallet.models import WalletRow
from txpatterns import App


class WalletApi:
    """Credit, over its own database. What moves it is the participant in ``shop.wallet.app``."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def get(self, visitor_id: str) -> Wallet:
        """Say what a visitor has. Who has spent nothing yet has the welcome: it is written down with the first hold."""
        async with self.app.session() as session:
            row = await session.get(WalletRow, visitor_id)
        available, held = (WELCOME_MINOR, 0) if row is None else (row.available, row.held)
        return Wallet(available=Money.of_minor(available, CURRENCY), held=Money.of_minor(held, CURRENCY))
