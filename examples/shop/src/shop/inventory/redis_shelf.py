"""The goods in Redis, which says no to who comes too late without asking a database; a ledger has the last word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.inventory.domain import Stock
from shop.inventory.models import LedgerRow, ReservationRow, StockRow
from shop.inventory.shelf import OwnShelf, held_in, stock_lines
from txpatterns import App, Database
from txpatterns.errors import OutOfStock, ReservationEnded, StockUnavailable, UnknownItem
from txpatterns.tcc.stock import Decision, StockTables, sweep
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock

logger = logging.getLogger("shop.inventory")

GRACE = timedelta(hours=1)
"""How long after the time to pay a reservation is looked at that nobody has ended."""
SWEEP_EVERY = 30.0
"""Seconds between two looks."""


class RedisShelf:
    """A shelf over the library's `RedisStock`; enter it before it is used.

    The ledger has a database of its own: a handler writes in the service's, and on SQLite that shuts out all others.
    What was set aside before there was Redis is ended where it was, in the service's own tables.

    Args:
        redis: Its URL.
        ledger: The URL of the ledger's database, which is there.
    """

    def __init__(self, redis: str, ledger: str) -> None:
        self._metadata = MetaData()
        self._database = Database(ledger)
        self._ledger = SqlLedger(self._database, StockTables(self._metadata))
        self.stock = RedisStock(redis, self._ledger)
        self._own = OwnShelf()

    async def __aenter__(self) -> Self:
        await self._ledger.stock.transact(self._metadata.create_all)
        try:
            await self.stock.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stock.close()
        await self._database.close()

    async def set_aside(
        self, session: AsyncSession, order_id: str, wanted: Mapping[str, int], until: datetime
    ) -> Mapping[str, int] | None:
        """Set things aside for an order."""
        if await session.get(ReservationRow, order_id, with_for_update=True):
            return None
        short: Mapping[str, int] = {}
        try:
            # Asked again with the same id, when this transaction is rolled back, it answers the same.
            await self.stock.reserve(order_id, wanted, max(until, datetime.now(UTC)) + GRACE)
        except OutOfStock as no:
            short = no.short
        except UnknownItem:
            known = await self.stock.levels(wanted)
            short = {sku: 0 for sku in wanted if sku not in known}
        except ReservationEnded:
            return None
        state = "rejected" if short else "reserved"
        lines = [line.model_dump() for line in stock_lines(wanted)]
        session.add(ReservationRow(order_id=order_id, state=state, lines=lines, until=until))
        if not short:
            _note(session, order_id, "reserve", wanted)
        return short

    async def put_back(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Put back what is set aside for an order; also what was set aside in a transaction that was rolled back."""
        held = await session.get(ReservationRow, order_id, with_for_update=True)
        if held is not None and (held.state != "reserved" or await self.stock.reservation(order_id) is None):
            return await self._own.put_back(session, order_id)
        await self.stock.cancel(order_id)
        if held is None:
            return await self._own.put_back(session, order_id)
        back = held_in(held)
        held.state = "released"
        _note(session, order_id, "release", back)
        return back

    async def hand_over(self, session: AsyncSession, order_id: str) -> Mapping[str, int] | None:
        """Hand over what is set aside for an order."""
        held = await session.get(ReservationRow, order_id, with_for_update=True)
        if held is None or held.state != "reserved" or await self.stock.reservation(order_id) is None:
            return await self._own.hand_over(session, order_id)
        await self.stock.confirm(order_id)
        sold = held_in(held)
        held.state = "sold"
        _note(session, order_id, "sell", sold)
        return sold

    async def levels(self, session: AsyncSession, skus: Iterable[str]) -> Mapping[str, Stock]:
        """Give the levels of these, as Redis has them."""
        found = await self.stock.levels(skus)
        return {sku: Stock(level.available, level.reserved, level.sold) for sku, level in found.items()}

    async def load(self, app: App) -> tuple[int, int]:
        """Tell Redis of the goods that it does not know: as many as the service's own tables have to sell.

        What it knows stays as it is, so it may be repeated, also while orders come in.

        Returns:
            How many are new to it, and how many there are.
        """
        async with app.session() as session:
            rows = (await session.scalars(select(StockRow))).all()
        return len(await self.stock.load({row.sku: row.available for row in rows})), len(rows)

    async def sweep_forever(self, app: App) -> None:
        """End what was set aside for a transaction that never came to be, until cancelled."""

        async def decide(order_id: str) -> Decision:
            async with app.session() as session:
                row = await session.get(ReservationRow, order_id)
            ends = {"sold": Decision.CONFIRM, "reserved": Decision.OPEN}
            return Decision.CANCEL if row is None else ends.get(row.state, Decision.CANCEL)

        while True:
            try:
                await sweep(self.stock, decide)
            except StockUnavailable as error:
                logger.warning("the stock is not swept: %s", error)
            await asyncio.sleep(SWEEP_EVERY)


def _note(session: AsyncSession, order_id: str, movement: str, wanted: Mapping[str, int]) -> None:
    now = datetime.now(UTC)
    session.add_all(
        LedgerRow(order_id=order_id, sku=sku, movement=movement, quantity=quantity, at=now)
        for sku, quantity in wanted.items()
    )
