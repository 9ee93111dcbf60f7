"""Codes that are few, and so are used again: numbers of queues, lockers, short coupons. Never of orders."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from txpatterns.checks import check_at_least
from txpatterns.database.database import Database
from txpatterns.database.dialects import insert_into, is_sqlite
from txpatterns.database.engines import refuse_autocommit
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import CodeNotHeld, CodesExhausted
from txpatterns.ids.schema import code_table

_row = code_table.c


class CodePool:
    """Codes from 1 to ``size``, each had by one holder at a time, under a name of its own.

    A code that was given back rests for ``quarantine`` before it is given again, so that whoever still has the old one
    in hand does not reach the new holder with it. It is meant for codes that may be used again; what must be told from
    all others for ever, an order say, needs an id.

    Each method works in the transaction of a session, and counts if that commits. With an ``AsyncSession``:
    ``await session.run_sync(pool.take, holder)``.

    Raises:
        ConfigurationError: ``size`` or ``quarantine`` is less than nothing.
    """

    def __init__(self, database: Database, name: str, *, size: int, quarantine: timedelta) -> None:
        self._database = database
        self.name = name
        self.size = size
        self.quarantine = quarantine
        check_at_least(1, self, "size")
        check_at_least(timedelta(0), self, "quarantine")

    def take(self, session: Session, holder: str) -> int:
        """Give a holder a code that nobody has: the one that has rested longest, or one that was never used.

        Nobody waits for another who takes one at the same time.

        Raises:
            CodesExhausted: all are held, or rest.
            NotTransactional: the session commits each statement by itself.
        """
        connection = self._connection(session)
        code = self._rested(connection)
        if code is None:
            return self._begun(connection, holder)
        change = sa.update(code_table).where(self._is(code)).values(holder=holder, free_at=None)
        self._database.execute_beside(connection, change)
        return code

    def give_back(self, session: Session, code: int, holder: str) -> None:
        """Let a code rest, and then be given to others.

        Raises:
            CodeNotHeld: the holder does not have it.
        """
        connection = self._connection(session)
        free_at = self._database.now(self.quarantine)
        change = sa.update(code_table).where(self._is(code), _row.holder == holder)
        if not self._database.execute_beside(connection, change.values(holder=None, free_at=free_at)).rowcount:
            raise CodeNotHeld(f"{holder} does not have code {code} of {self.name}.")

    def holder_of(self, session: Session, code: int) -> str | None:
        """Say who has a code now; None: nobody."""
        query = sa.select(_row.holder).where(self._is(code))
        found: str | None = self._database.execute_beside(self._connection(session), query).scalar()
        return found

    def _connection(self, session: Session) -> Connection:
        connection = writing_connection(session)
        refuse_autocommit(connection)
        return connection

    def _is(self, code: int) -> sa.ColumnElement[bool]:
        return sa.and_(_row.pool == self.name, _row.code == code)

    def _rested(self, connection: Connection) -> int | None:
        query = sa.select(_row.code).where(_row.pool == self.name, _row.free_at <= self._database.now())
        query = query.order_by(_row.free_at, _row.code).limit(1)
        if not is_sqlite(connection):
            query = query.with_for_update(skip_locked=True)
        found: int | None = self._database.execute_beside(connection, query).scalar()
        return found

    def _begun(self, connection: Connection, holder: str) -> int:
        last = sa.select(sa.func.coalesce(sa.func.max(_row.code), 0)).where(_row.pool == self.name)
        begin = int(self._database.execute_beside(connection, last).scalar_one()) + 1
        insert = insert_into(code_table, on_sqlite=is_sqlite(connection)).on_conflict_do_nothing()
        for code in range(begin, self.size + 1):
            if self._is_ours(connection, code):
                row = insert.values(pool=self.name, code=code, holder=holder, free_at=None).returning(_row.code)
                if self._database.execute_beside(connection, row).scalar() is not None:
                    return code
        raise CodesExhausted(f"All {self.size} codes of {self.name} are held, or rest.")

    def _is_ours(self, connection: Connection, code: int) -> bool:
        """Whether nobody begins this code at the same time: the row would let us wait for that one's commit."""
        if is_sqlite(connection):
            return True
        key = blake2b(f"txp_id_code {self.name} {code}".encode(), digest_size=8).digest()
        lock = sa.func.pg_try_advisory_xact_lock(sa.literal(int.from_bytes(key, signed=True), sa.BigInteger))
        return bool(connection.execute(sa.select(lock)).scalar_one())
