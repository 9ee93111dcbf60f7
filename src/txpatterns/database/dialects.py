"""What differs between databases, in one screen: the clock, lists of values, locks, and which errors to repeat."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, DBAPIError, StatementError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from txpatterns.database.schema import Instant
from txpatterns.errors import TxPatternsError

STANDING = 1e11
"""From here up, a parameter of the database's clock is an instant, in seconds since 1970 and these: that of a clock
which the test kit moves. It stands still, whatever time a statement takes to arrive."""
_IS_STANDING = f"{STANDING / 10:.1f}"
_FORMAT = "'%Y-%m-%d %H:%M:%f'"


class _Now(FunctionElement[Any]):
    """The database's clock plus some seconds. It moves inside a transaction, as a lease needs."""

    type = Instant()
    inherit_cache = True


@compiles(_Now, "postgresql")
def _now_postgresql(element: _Now, compiler: SQLCompiler, **kw: Any) -> str:
    return now_on_postgresql(compiler.process(element.clauses, **kw))


def now_on_postgresql(seconds: str) -> str:
    """Give the same in PostgreSQL's words, of a parameter's text."""
    standing, running = f"to_timestamp({seconds} - {STANDING})", f"clock_timestamp() + make_interval(secs => {seconds})"
    return f"(CASE WHEN {seconds} > {_IS_STANDING} THEN {standing} ELSE {running} END)"


@compiles(_Now, "sqlite")
def _now_sqlite(element: _Now, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    standing = f"strftime({_FORMAT}, {seconds} - {STANDING}, 'unixepoch')"
    running = f"strftime({_FORMAT}, 'now', printf('%+.6f seconds', {seconds}))"
    return f"((CASE WHEN {seconds} > {_IS_STANDING} THEN {standing} ELSE {running} END) || '000')"


def now(seconds: float) -> ColumnElement[Any]:
    """Give the database's own clock, moved by what ``Database.seconds`` gives."""
    return now_plus(sa.bindparam(None, seconds, sa.Float))


def now_plus(seconds: ColumnElement[float]) -> ColumnElement[Any]:
    """Give the database's own clock, moved by a parameter that each row of a statement may give another value."""
    return _Now(seconds)


def moment(name: str) -> ColumnElement[Any]:
    """Give the database's own clock, moved by a named parameter, which is what ``Database.seconds`` gives.

    It is for statements that are made once: making one costs several times what running it does.
    """
    return now_plus(sa.bindparam(name, type_=sa.Float))


def last_number(table: sa.Table) -> sa.ScalarSelect[int]:
    """Give the highest number that SQLite has ever given to a row of a table, one that is gone included."""
    sequence = sa.table("sqlite_sequence", sa.column("name", sa.String), sa.column("seq", sa.Integer))
    return sa.select(sequence.c.seq).where(sequence.c.name == table.name).scalar_subquery()


class _Within(FunctionElement[bool]):
    """A text column is in a list that is given as one parameter, so that the statement is always the same text."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(_Within, "postgresql")
def _within_postgresql(element: _Within, compiler: SQLCompiler, **kw: Any) -> str:
    column, listed = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({listed} AS json))))"


@compiles(_Within, "sqlite")
def _within_sqlite(element: _Within, compiler: SQLCompiler, **kw: Any) -> str:
    column, listed = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({listed}))"


def within(column: sa.Column[str], values: Iterable[str]) -> ColumnElement[bool]:
    """Say that a text column is one of the values, however many they are."""
    return _Within(column, sa.bindparam(None, json.dumps(list(values)), sa.Text))


def listed(
    rows: sa.BindParameter[str], columns: int, *, on_sqlite: bool
) -> tuple[ColumnElement[int], list[ColumnElement[str]]]:
    """Read rows of texts from one parameter, a JSON list of lists; gives the number of a row, and its columns."""
    if on_sqlite:
        given = sa.func.json_each(rows).table_valued("key", "value")
        return given.c.key, [
            sa.func.json_extract(given.c.value, sa.literal_column(f"'$[{n}]'"), type_=sa.String) for n in range(columns)
        ]
    table = sa.func.json_array_elements(sa.cast(rows, postgresql.JSON)).table_valued("row", with_ordinality="number")
    found = table.render_derived(name="given")
    return found.c.number, [
        found.c.row.op("->>", return_type=sa.String())(sa.literal_column(str(n))) for n in range(columns)
    ]


_IDLE_LIMIT: sa.ColumnClause[str] = sa.literal_column("'idle_in_transaction_session_timeout'")


def idle_limit(milliseconds: sa.BindParameter[str]) -> ColumnElement[str]:
    """Let PostgreSQL end this transaction when it does nothing for so long, where nobody has set another limit.

    ``"0"`` is no limit. It is set by a statement that gives this as one of its columns, and holds until the end of the
    transaction.
    """
    given = sa.func.current_setting(_IDLE_LIMIT)
    return sa.func.set_config(
        _IDLE_LIMIT, sa.case((given == sa.literal_column("'0'"), milliseconds), else_=given), sa.true()
    )


BOUND_IDLE = sa.select(idle_limit(sa.bindparam("limit", type_=sa.String)))
"""The same as a statement by itself; ``limit`` is in milliseconds."""


def is_sqlite(connection: Connection) -> bool:
    """Whether this is SQLite: one writer, no row locks, and no need of them."""
    return connection.dialect.name == "sqlite"


def insert_into(table: sa.Table, *, on_sqlite: bool) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that can say what becomes of a row that is there already."""
    return sqlite.insert(table) if on_sqlite else postgresql.insert(table)


def has_written(connection: Connection) -> bool:
    """Whether a transaction may have changed something; SQLite does not tell, so there it may."""
    number = None if is_sqlite(connection) else "SELECT pg_current_xact_id_if_assigned()"
    return number is None or connection.exec_driver_sql(number).scalar() is not None


def sqlstate(error: BaseException) -> str:
    """Give PostgreSQL's five letters for an error, as SQLAlchemy or a driver raised it; empty where there are none."""
    # SQLAlchemy 2.0 does not wrap what asyncpg raises while it connects.
    original = error.orig if isinstance(error, DBAPIError) else error
    for name in ("sqlstate", "pgcode"):
        try:
            found = getattr(original, name, None)
        except Exception:  # noqa: BLE001 - a property of an application's error
            return ""
        if found and isinstance(found, str):
            return found
    return ""


READ_ONLY = "25006"
NOTHING_WORKS = "25P02"
"""What every statement gets in a transaction of which an earlier one has failed."""


def has_open_transaction(connection: Connection) -> bool | None:
    """Whether the driver is in a transaction; None: in one that has failed. A closed link is left to the commit.

    SQLAlchemy knows only of what it has ended itself: not of a ``COMMIT`` as text, nor of the driver's own methods.
    """
    driver: Any = connection.connection.driver_connection
    if is_sqlite(connection):
        try:
            return bool(driver.in_transaction)
        except (sqlite3.ProgrammingError, ValueError):  # it is closed, says the driver, or aiosqlite
            return True
    if connection.dialect.driver == "asyncpg":
        return bool(driver.is_closed() or driver.is_in_transaction())
    return {"IDLE": False, "INERROR": None}.get(driver.info.transaction_status.name, True)


_REPEATABLE_STATES = frozenset(("40001", "40P01", "55P03"))


def is_repeatable(error: BaseException) -> bool:
    """Whether the database gave up a transaction that may simply run again: a deadlock, a conflict, a busy file."""
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error)
    if state:
        return state in _REPEATABLE_STATES
    return "database is locked" in str(error.orig) or "database table is locked" in str(error.orig)


_OF_VALUES = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def may_pass(error: BaseException) -> bool:
    """Whether waiting can mend an error of ours at the database: not where it lies in what the database was given.

    Drivers raise errors of many kinds while a server is away, so what is not known to be of the other kind may pass.
    """
    if isinstance(error, (DBAPIError, OSError)):
        return not isinstance(error, DataError)
    return not isinstance(error, (*_OF_VALUES, StatementError, TxPatternsError))


def is_of_database(error: BaseException) -> bool:
    """Whether an error is the database's, or the system's on the way there, in whosever words."""
    return isinstance(error, (DBAPIError, OSError)) or bool(sqlstate(error))


def is_disconnect(error: BaseException) -> bool:
    """Whether the link to the database failed, so that nothing is known of a COMMIT that was under way."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, (OSError, sa.exc.TimeoutError)) or sqlstate(error).startswith(("08", "57P"))
