"""What the stock answers."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from shop.inventory.models import StockRow
from shop.ports import StockLevel
from txpatterns import App


class InventoryApi:
    """Stock levels, over their own database."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def stock_shelves(self, quantities: Mapping[str, int]) -> None:
        """Fill empty shelves. Shelves that hold something are left alone."""
        async with self.app.transaction() as session:
            if await session.scalar(select(StockRow.sku).limit(1)):
                return
            session.add_all(
                StockRow(sku=sku, available=quantity, reserved=0, sold=0) for sku, quantity in quantities.items()
            )

    async def levels(self, skus: list[str]) -> list[StockLevel]:
        """Give the levels of the named products; an unknown one is left out."""
        async with self.app.session() as session:
            rows = await session.scalars(select(StockRow).where(StockRow.sku.in_(skus)))
            return [
                StockLevel(sku=row.sku, available=row.available, reserved=row.reserved, sold=row.sold) for row in rows
            ]
