"""A stock in a database: in your transaction, or in one of its own for each call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar, overload

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.database import Database
from txpatterns.database.engines import refuse_autocommit, sync_side
from txpatterns.database.sessions import writing_connection
from txpatterns.tcc.stock.answers import reserved
from txpatterns.tcc.stock.contract import Level, Lines, Reservation
from txpatterns.tcc.stock.limits import (
    Limits,
    checked_name,
    checked_names,
    checked_quantities,
    checked_quantity,
    checked_time,
    wished,
)
from txpatterns.tcc.stock.sql_store import SqlStore
from txpatterns.tcc.stock.tables import StockTables

T = TypeVar("T")


class Runs(Protocol):
    """Runs statements in some transaction."""

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


class TransactionStock:
    """A `Stock` of which each call runs in the transaction that it is given."""

    def __init__(self, store: SqlStore, run: Runs) -> None:
        self._store = store
        self._run = run

    async def reserve(self, reservation_id: str, lines: Lines, expires_at: datetime) -> Reservation:
        """Set aside what is wanted, all of it or nothing. As `Stock.reserve`."""
        wish = wished(reservation_id, lines, expires_at)
        return reserved(await self._run(partial(self._store.reserve, wish=wish)), wish.lines)

    async def confirm(self, reservation_id: str) -> bool:
        """Take what is set aside out of the stock for good. As `Stock.confirm`."""
        confirm = partial(self._store.confirm, reservation_id=checked_name("id", reservation_id))
        return (await self._run(confirm)).changed

    async def cancel(self, reservation_id: str) -> bool:
        """Make what is set aside available again. As `Stock.cancel`."""
        cancel = partial(self._store.cancel, reservation_id=checked_name("id", reservation_id))
        return (await self._run(cancel)).changed

    async def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when `sweep` asks. As `Stock.prolong`."""
        until = checked_time(expires_at)
        prolong = partial(self._store.prolong, reservation_id=checked_name("id", reservation_id), until=until)
        return await self._run(prolong)

    async def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Tell the stock of items that it does not know yet. As `Stock.load`."""
        return await self._run(partial(self._store.load, quantities=checked_quantities(quantities)))

    async def set_available(self, item: str, quantity: int) -> None:
        """Say how many of an item are available now. As `Stock.set_available`."""
        checked_quantity(item, quantity)
        await self._run(partial(self._store.set_available, item=item, quantity=quantity))

    async def levels(self, items: Iterable[str]) -> Mapping[str, Level]:
        """Give the levels of these items. As `Stock.levels`."""
        return await self._run(partial(self._store.levels, items=checked_names("item", items)))

    async def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands; None where there is none."""
        return await self._run(partial(self._store.find, reservation_id=checked_name("id", reservation_id)))

    async def overdue(self, most: int = 100) -> Sequence[str]:
        """Give reservations that are set aside though their time is over, the oldest first."""
        return await self._run(partial(self._store.overdue, most=most))


class PlainStock:
    """What a `Stock` does, without ``await``, in the transaction of a plain ``Session``."""

    def __init__(self, store: SqlStore, session: Session) -> None:
        self._store = store
        self._session = session

    def reserve(self, reservation_id: str, lines: Lines, expires_at: datetime) -> Reservation:
        """Set aside what is wanted, all of it or nothing. As `Stock.reserve`."""
        wish = wished(reservation_id, lines, expires_at)
        return reserved(self._store.reserve(_connection(self._session), wish), wish.lines)

    def confirm(self, reservation_id: str) -> bool:
        """Take what is set aside out of the stock for good. As `Stock.confirm`."""
        checked_name("id", reservation_id)
        return self._store.confirm(_connection(self._session), reservation_id).changed

    def cancel(self, reservation_id: str) -> bool:
        """Make what is set aside available again. As `Stock.cancel`."""
        checked_name("id", reservation_id)
        return self._store.cancel(_connection(self._session), reservation_id).changed

    def prolong(self, reservation_id: str, expires_at: datetime) -> bool:
        """Put off, once, when `sweep` asks. As `Stock.prolong`."""
        until = checked_time(expires_at)
        return self._store.prolong(_connection(self._session), checked_name("id", reservation_id), until)

    def load(self, quantities: Mapping[str, int]) -> Sequence[str]:
        """Tell the stock of items that it does not know yet. As `Stock.load`."""
        return self._store.load(_connection(self._session), checked_quantities(quantities))

    def set_available(self, item: str, quantity: int) -> None:
        """Say how many of an item are available now. As `Stock.set_available`."""
        self._store.set_available(_connection(self._session), item, checked_quantity(item, quantity))

    def levels(self, items: Iterable[str]) -> Mapping[str, Level]:
        """Give the levels of these items. As `Stock.levels`."""
        return self._store.levels(_connection(self._session), checked_names("item", items))

    def reservation(self, reservation_id: str) -> Reservation | None:
        """Say how a reservation stands; None where there is none."""
        return self._store.find(_connection(self._session), checked_name("id", reservation_id))


class SqlStock(TransactionStock):
    """A `Stock` in a database. Its own calls commit by themselves; `within` gives the same in your transaction.

    ``tables`` are yours, made by `StockTables`. In a transaction of yours, reserve under one id only: two that take
    items under several ids, in different orders, may wait for each other.
    """

    def __init__(self, database: Database, tables: StockTables, limits: Limits | None = None) -> None:
        self.database = database
        self.limits = limits or Limits()
        super().__init__(SqlStore(database, tables, self.limits), self.transact)

    @overload
    def within(self, session: AsyncSession) -> TransactionStock: ...
    @overload
    def within(self, session: Session) -> PlainStock: ...
    def within(self, session: AsyncSession | Session) -> TransactionStock | PlainStock:
        """Give the stock in the transaction of this session: what is reserved there is reserved at its commit.

        Raises:
            NotTransactional: by each of its calls, where the session commits each statement by itself.
        """
        if isinstance(session, Session):
            return PlainStock(self._store, session)

        async def run(work: Callable[[Connection], T]) -> T:
            return await session.run_sync(lambda plain: work(_connection(plain)))

        return TransactionStock(self._store, run)

    async def forget(self) -> int:
        """Forget ended reservations that were to be remembered until now, in short transactions; says how many."""
        total = 0
        while removed := await self._run(self._store.forget):
            total += removed
        return total

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run statements on these tables in a transaction of its own; a deadlock or conflict runs them again."""
        engine = sync_side(self.database.engine)
        meant = engine.get_execution_options().get("schema_translate_map") or {}

        def there(connection: Connection) -> T:
            # The library's own transactions name the schema of its own tables, and these are yours.
            return work(connection.execution_options(schema_translate_map=meant))

        return await self.database.transact(there)


def _connection(session: Session) -> Connection:
    connection = writing_connection(session)
    refuse_autocommit(connection)
    return connection
