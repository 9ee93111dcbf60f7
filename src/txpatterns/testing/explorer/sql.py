"""The points at the database: each statement, each COMMIT, each new connection, of every engine in the process.

Meant for a child process that ends after its flow: what is installed here stays.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.engine.default import DefaultDialect

from txpatterns.database.direct import Direct
from txpatterns.outbox import writer
from txpatterns.testing.explorer.points import Mode, Points

T = TypeVar("T")

_WORDS = re.compile(r"^\s*(?:WITH\b.*?\bAS\b)?\s*(\w+(?:\s+IMMEDIATE)?)", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(r"\b(?:INTO|UPDATE|FROM)\s+(?:\w+\.)?\"?(\w+)", re.IGNORECASE)
_LOST = "the connection was lost (injected)"


def install(points: Points) -> None:
    """Put a point around all that this process says to a database from now on."""
    seam = _SqlPoints(points)
    event.listen(Engine, "do_execute", seam.execute)
    event.listen(Engine, "do_executemany", seam.execute_many)
    event.listen(Engine, "do_execute_no_params", seam.execute_no_params)
    connect, commit = DefaultDialect.connect, DefaultDialect.do_commit
    DefaultDialect.connect = lambda dialect, *args, **kwargs: seam.connect(  # type: ignore[method-assign]
        dialect, lambda: connect(dialect, *args, **kwargs)
    )
    DefaultDialect.do_commit = lambda dialect, connection: seam.commit(dialect, connection, commit)  # type: ignore[method-assign]
    for driver, way in writer.BARE.items():
        writer.BARE[driver] = seam.bare(way)
    run = Direct.run
    Direct.run = lambda *given: seam.direct(run, *given)  # type: ignore[method-assign]


class _SqlPoints:
    def __init__(self, points: Points) -> None:
        self.points = points
        self._last: dict[int, str] = {}

    def connect(self, dialect: Dialect, really: Callable[[], T]) -> T:
        fault = self.points.arrive("connect")
        if fault in (Mode.ERROR_BEFORE, Mode.REPLY_LOST):
            raise _error(dialect)
        with self.points.calling():
            connection = really()
        self.points.leave(fault)
        return connection

    def execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        self._around(context, statement, lambda: context.dialect.do_execute(cursor, statement, parameters, context))
        return True

    def execute_many(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        self._around(context, statement, lambda: context.dialect.do_executemany(cursor, statement, parameters, context))
        return True

    def execute_no_params(self, cursor: Any, statement: str, context: Any) -> bool:
        self._around(context, statement, lambda: context.dialect.do_execute_no_params(cursor, statement, context))
        return True

    def commit(self, dialect: Any, connection: Any, really: Callable[[Any, Any], None]) -> None:
        last = self._last.pop(id(connection.driver_connection), None)
        if last is None or _commits_by_itself(connection):
            really(dialect, connection)
            return
        self._call(f"commit after {last}", connection, dialect, lambda: really(dialect, connection))

    def bare(self, way: Callable[..., bool]) -> Callable[..., bool]:
        """Wrap a write that goes to the driver directly."""

        def pointed(driver: Any, table: str, rows: Sequence[tuple[Any, ...]]) -> bool:
            name = self._last[id(driver)] = "outbox.writer: insert txp_outbox"
            fault = self.points.arrive(name)
            if fault is Mode.ERROR_BEFORE:
                _sever(driver)
            with self.points.calling():
                done = way(driver, table, rows)
            self.points.leave(fault)
            if fault is Mode.REPLY_LOST:
                _sever(driver)
                way(driver, table, rows)  # on a connection that is gone, the driver raises its own error
            return done

        return pointed

    async def direct(
        self, run: Callable[..., Awaitable[Any]], direct: Direct, method: str, statement: str, values: Any
    ) -> Any:
        """Say a statement on a kept connection, with a point around it."""
        fault = self.points.arrive(f"database.direct: {label(statement)}")
        if fault is Mode.ERROR_BEFORE:
            _sever(direct.driver)
        with self.points.calling():
            answer = await run(direct, method, statement, values)
        self.points.leave(fault)
        if fault is Mode.REPLY_LOST:
            _sever(direct.driver)
            return await run(direct, method, statement, values)  # which raises the driver's own error
        return answer

    def _around(self, context: Any, statement: str, really: Callable[[], T]) -> T:
        connection = context.root_connection.connection
        name = f"{_caller()}{label(statement)}"
        self._last[id(connection.driver_connection)] = name
        return self._call(name, connection, context.dialect, really)

    def _call(self, name: str, connection: Any, dialect: Any, really: Callable[[], T]) -> T:
        fault = self.points.arrive(name)
        if fault is Mode.ERROR_BEFORE:
            _sever(connection.driver_connection)
            raise _error(dialect)
        with self.points.calling():
            answer = really()
        self.points.leave(fault)
        if fault is Mode.REPLY_LOST:
            _sever(connection.driver_connection)
            raise _error(dialect)
        return answer


def label(statement: str) -> str:
    """Give a statement a short name: its verb and its table."""
    verb, table = _WORDS.search(statement), _TABLE.search(statement)
    words = [verb[1].lower() if verb else "", table[1] if table else ""]
    return " ".join(word for word in words if word)


def _caller() -> str:
    """Name the function of the library that speaks to the database, where the stack shows one."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("txpatterns.") and not module.startswith("txpatterns.testing"):
            function = frame.f_code.co_qualname.removesuffix(".<locals>.work").removesuffix(".<locals>.<lambda>")
            if not function.startswith("Database."):
                return f"{module.removeprefix('txpatterns.')}.{function}: "
        frame = frame.f_back
    return ""


def _sever(driver: Any) -> None:
    """End the connection as a network would: from now on the driver itself says that it is gone."""
    if hasattr(driver, "terminate"):
        driver.terminate()
    elif hasattr(driver, "pgconn"):
        driver.pgconn.finish()


def _commits_by_itself(connection: Any) -> bool:
    dbapi = connection.dbapi_connection
    return getattr(dbapi, "autocommit", None) is True or getattr(dbapi, "isolation_level", None) == "autocommit"


def _error(dialect: Any) -> Exception:
    error: Exception = dialect.loaded_dbapi.OperationalError(_LOST)
    return error
