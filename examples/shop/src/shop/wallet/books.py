"""Moving credit, in the transaction of who asks: the books and what somebody has change together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from shop.wallet.domain import PROMOTIONS, SALES, WELCOME_MINOR, Credit, Entry, available, held, transfer
from shop.wallet.models import EntryRow, WalletRow
from txpatterns import new_id


async def opened(session: AsyncSession, owner: str) -> WalletRow:
    """Give somebody's wallet, locked; a new one is opened with the shop's welcome in it."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    row = (sqlite.insert if is_sqlite else postgresql.insert)(WalletRow).values(owner=owner, available=0, held=0)
    # Who opens it at the same time waits here for the first one, and opens nothing.
    is_new = await session.scalar(row.on_conflict_do_nothing().returning(WalletRow.owner)) is not None
    wallet = await session.get_one(WalletRow, owner, with_for_update=True)
    if is_new:
        wallet.credit = wallet.credit.give(WELCOME_MINOR)
        _write(session, transfer(PROMOTIONS, available(owner), WELCOME_MINOR), "welcome", None)
    return wallet


async def hold(session: AsyncSession, owner: str, order_id: str, minor: int) -> Credit:
    """Set some of somebody's credit aside for an order; gives what they have then.

    Raises:
        NotEnough: they have less.
    """
    row = await opened(session, owner)
    row.credit = row.credit.hold(minor)
    _write(session, transfer(available(owner), held(owner), minor), "hold", order_id)
    return row.credit


async def spend(session: AsyncSession, owner: str, order_id: str, minor: int) -> None:
    """Take what was set aside as paid."""
    row = await session.get_one(WalletRow, owner, with_for_update=True)
    row.credit = row.credit.spend(minor)
    _write(session, transfer(held(owner), SALES, minor), "spend", order_id)


async def release(session: AsyncSession, owner: str, order_id: str, minor: int) -> None:
    """Give back what was set aside."""
    row = await session.get_one(WalletRow, owner, with_for_update=True)
    row.credit = row.credit.release(minor)
    _write(session, transfer(held(owner), available(owner), minor), "release", order_id)


def _write(session: AsyncSession, sides: tuple[Entry, Entry], what: str, order_id: str | None) -> None:
    transfer_id, now = new_id(), datetime.now(UTC)
    session.add_all(
        EntryRow(transfer_id=transfer_id, account=side.account, minor=side.minor, what=what, order_id=order_id, at=now)
        for side in sides
    )
