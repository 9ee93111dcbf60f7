"""Messages that are kept after they were sent, by time: on PostgreSQL in partitions, which are dropped whole.

Partitions lie in a schema of their own. In the application's schema, tools that compare tables, Alembic's autogenerate
before all, would take them for tables that nobody declared, and propose to drop them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite, sqlstate
from txpatterns.database.engines import qualified
from txpatterns.errors import SchemaError
from txpatterns.outbox.schema import sent_table

logger = logging.getLogger("txpatterns.relay")

SCHEMA = "txp_partitions"
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_HOURLY_UP_TO = timedelta(days=2)
_MARGIN = timedelta(minutes=1)
"""How far ahead the first partition begins: what is sent until it is there goes to the default partition."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATER = frozenset(("55P03", "57014", "23514"))  # a lock or a scan that takes too long; a row of that time in the way
_FORBIDDEN = "42501"

# One relay at a time for each table; the first number is any that nobody else locks.
_KEY = "742811390, CAST(CAST(to_regclass(:parent) AS oid) AS integer)"
_TRY_LOCK = sa.text(f"SELECT pg_try_advisory_xact_lock({_KEY})")
_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({_KEY})")
_STATE = sa.text(
    "SELECT oid AS parent, pg_has_role(relowner, 'USAGE') AS is_owner, clock_timestamp() AS now, "
    "to_regnamespace(:schema) IS NOT NULL AS has_schema FROM pg_class WHERE oid = to_regclass(:parent)"
)
# A partition's bounds are told as text, in the session's zone and style: "28/11/2026 13:10 IST" is read by nobody.
_READABLE = sa.text("SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, MDY', true)")
_PARTITIONS = sa.text(
    "SELECT n.nspname AS schema, c.relname AS name, b.bound = 'DEFAULT' AS is_default, "
    r"CAST(substring(b.bound FROM 'TO \(''([^'']+)''\)') AS timestamptz) AS until "
    "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
    "CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b(bound) WHERE i.inhparent = to_regclass(:parent)"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is now: the database's time, the default partition, and the others by the instant of their end."""

    now: datetime
    parent: int
    is_owner: bool
    has_schema: bool
    default: tuple[str, str] | None
    ranges: list[tuple[datetime, tuple[str, str]]]


class KeptMessages:
    """Looks after ``txp_outbox_sent`` while a relay keeps what it sent. Any number of relays may do so at once.

    On PostgreSQL a partition holds an hour, or a day where messages are kept for more than two days. One is made
    before its time has come, and dropped as soon as all of it is older than ``keep``. Nobody who settles waits for
    either longer than a moment: what cannot have its lock by then is tried again the next time. A user who may not
    make partitions deletes rows instead.
    """

    def __init__(self, database: Database, keep: timedelta) -> None:
        self.database = database
        self.keep = keep
        self.width = _HOUR if keep <= _HOURLY_UP_TO else _DAY
        self._may_make = True

    async def prepare(self) -> None:
        """Make sure that a message finds a place at any time: in the default partition.

        Raises:
            SchemaError: it is missing, and may not be made; the statements that make it are in the error.
        """
        if not self.database.is_sqlite:
            await self.database.transact(self._make_default)

    async def forget(self, limit: int) -> bool:
        """Make partitions and drop those that are over, then delete one batch of what is in none, ``limit`` rows.

        Gives whether there may be more to delete.
        """
        while not self.database.is_sqlite and await self.database.transact(self._step):
            continue
        return await self.database.transact(lambda connection: self._delete(connection, limit)) == limit

    def _delete(self, connection: Connection, limit: int) -> int:
        table = sent_table if is_sqlite(connection) else self._rest(connection)
        old = sa.select(table.c.position).where(table.c.sent_at < self.database.now(-self.keep))
        batch = old.order_by(table.c.sent_at).limit(limit)
        if not is_sqlite(connection):
            batch = batch.with_for_update(skip_locked=True)
        return connection.execute(sa.delete(table).where(table.c.position.in_(batch))).rowcount

    def _rest(self, connection: Connection) -> sa.TableClause:
        """Give what holds the rows that no DROP will remove."""
        found = self._look(connection)
        if found.default is None or not found.is_owner:
            return sent_table  # rights on a table are none on its partitions by themselves
        schema, name = found.default
        return sa.table(name, sa.column("position"), sa.column("sent_at"), schema=schema)

    def _make_default(self, connection: Connection) -> None:
        parent = qualified(sent_table, connection)
        connection.execute(_LOCK, {"parent": parent})
        found = self._look(connection)
        if found.default is not None:
            return
        statements = self._make(connection, found, "default", "DEFAULT")
        try:
            _run(connection, statements)
        except DBAPIError as error:
            if sqlstate(error) != _FORBIDDEN:
                raise
            fix = f"As the owner of {parent}, run: {'; '.join(statements)}"
            raise SchemaError(f"keep_sent needs a default partition of {parent}.", fix=fix) from error

    def _step(self, connection: Connection) -> bool:
        """Make or drop one partition, each in a short transaction of its own; gives whether it was done."""
        if not connection.scalar(_TRY_LOCK, {"parent": qualified(sent_table, connection)}):
            return False  # another relay is at it
        found = self._look(connection)
        if not found.is_owner:
            self._refused("its tables belong to another user")
            return False
        statements = self._due(connection, found)
        if not statements:
            return False
        try:
            with connection.begin_nested():
                # ATTACH locks the default partition and reads it, DROP locks all: those who settle wait meanwhile.
                connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
                connection.exec_driver_sql("SET LOCAL statement_timeout = '1s'")
                _run(connection, statements)
        except DBAPIError as error:
            if sqlstate(error) == _FORBIDDEN:
                self._refused(str(error.orig))
            elif sqlstate(error) in _LATER:
                logger.info("a partition of kept messages waits until the next time: %s", error.orig)
            else:
                raise
            return False
        return True

    def _refused(self, why: str) -> None:
        if self._may_make:
            logger.warning("the relay may not make partitions, so it deletes kept messages row by row: %s", why)
        self._may_make = False

    def _due(self, connection: Connection, found: _Found) -> list[str]:
        """Give the statements of what is to be done first: make a partition, or drop one; none when all is done."""
        covered = max((until for until, _ in found.ranges), default=_EPOCH)
        if self._may_make and covered < found.now + self.width:
            start = covered if covered > found.now else found.now + _MARGIN
            end = _EPOCH + ((start - _EPOCH) // self.width + 1) * self.width
            bounds = f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
            return self._make(connection, found, f"{start:%Y%m%d_%H%M%S}", bounds)
        over = sorted(one for one in found.ranges if one[0] <= found.now - self.keep)
        return [f"DROP TABLE {_quoted(connection, *name)}" for _, name in over[:1]]

    def _make(self, connection: Connection, found: _Found, name: str, bounds: str) -> list[str]:
        """Make a table and attach it: made as a partition at once, it would lock out everybody who settles."""
        parent = qualified(sent_table, connection)
        # Tables in several schemas of a database share this one, so that a name has the parent's number.
        partition = _quoted(connection, SCHEMA, f"sent_{found.parent}_{name}")
        return [
            *([] if found.has_schema else [f"CREATE SCHEMA {SCHEMA}"]),
            f"CREATE TABLE {partition} (LIKE {parent})",
            f"ALTER TABLE {parent} ATTACH PARTITION {partition} {bounds}",
        ]

    def _look(self, connection: Connection) -> _Found:
        parent = {"parent": qualified(sent_table, connection)}
        connection.execute(_READABLE)
        state = connection.execute(_STATE, {**parent, "schema": SCHEMA}).one()
        rows: list[Any] = list(connection.execute(_PARTITIONS, parent))
        return _Found(
            now=self.database.clock.instant or state.now.astimezone(UTC) + self.database.clock.offset,
            parent=state.parent,
            is_owner=state.is_owner,
            has_schema=state.has_schema,
            default=next(((row.schema, row.name) for row in rows if row.is_default), None),
            ranges=[(row.until.astimezone(UTC), (row.schema, row.name)) for row in rows if row.until is not None],
        )


def _quoted(connection: Connection, schema: str, name: str) -> str:
    quote = connection.dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}"


def _run(connection: Connection, statements: list[str]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)
