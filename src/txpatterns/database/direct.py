"""A kept connection for one part's statements, spoken to through the bare driver: the shortest way to the database.

Taking a connection from a pool, and a statement through SQLAlchemy, costs many times what a short statement itself
does. Where a message waits for it on its way to the broker, that is most of the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from txpatterns.database.database import Database
from txpatterns.database.engines import keep_settings, own_engine, sync_side
from txpatterns.database.finishing import finish

E = TypeVar("E", bound=BaseException)


class Direct:
    """Runs single statements on a connection of its own, which it opens when first asked.

    Each is a transaction by itself, at READ COMMITTED, and sees what is committed when it runs. One at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self.driver: Any = None
        """The driver's connection, while there is one."""

    @staticmethod
    def serves(database: Database) -> bool:
        """Whether this way is open: asyncpg, and no pooler, behind which two round trips may meet two servers."""
        return sync_side(database.engine).dialect.driver == "asyncpg" and database.listen_url is None

    async def fetch(self, statement: str, *values: object) -> Sequence[Any]:
        """Run a query with the driver's own parameters ($1, $2 ...); gives its rows. Raises what SQLAlchemy raises."""
        found: Sequence[Any] = await self.run("fetch", statement, values)
        return found

    async def execute(self, statement: str, *values: object) -> None:
        """Run a writing statement. Raises what SQLAlchemy raises."""
        await self.run("execute", statement, values)

    async def run(self, method: str, statement: str, values: Sequence[object]) -> Any:
        """Call the driver, whose connection is thrown away when that fails or is cancelled."""
        if self._connection is None:
            await self._connect()
        try:
            if self._database.home.is_read_committed:
                return await getattr(self.driver, method)(statement, *values)
            # By itself it would run at the level that is usual there, and make the application's transactions fail.
            await self.driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            answer = await getattr(self.driver, method)(statement, *values)
            await self.driver.execute("COMMIT")
            return answer
        except BaseException as error:
            said = translated(self._connection.sync_connection, error, statement)  # type: ignore[union-attr]
            await finish(self._throw_away())
            raise said from error

    async def close(self) -> None:
        """Close the connection; it is opened again when there is something to read."""
        engine, connection = self._engine, self._connection
        self._engine = self._connection = self.driver = None
        if connection is not None:
            await connection.close()
        if engine is not None:
            await engine.dispose()

    async def _throw_away(self) -> None:
        connection, self._connection, self.driver = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _connect(self) -> None:
        if self._engine is None:
            engine = own_engine(self._database.engine)
            assert isinstance(engine, AsyncEngine)
            keep_settings(engine.sync_engine)
            self._engine = engine
        self._connection = await self._engine.connect()
        self.driver = (await self._connection.get_raw_connection()).driver_connection


def translated(connection: Connection | None, error: E, statement: str) -> E | Exception:
    """Say a driver's error in SQLAlchemy's words, so that rules of retrying see what they know."""
    if connection is None or connection.closed or connection.invalidated or not isinstance(error, Exception):
        return error
    dbapi: Any = connection.connection.dbapi_connection
    module: Any = connection.dialect.loaded_dbapi
    said: BaseException = error
    handle = getattr(dbapi, "_handle_exception", None)
    if handle is not None:
        try:
            handle(error)
        except Exception as told:  # noqa: BLE001 - this is the translation
            said = told
    if not isinstance(said, module.Error):
        return error
    lost = connection.dialect.is_disconnect(said, dbapi, None)
    wrapped = DBAPIError.instance(
        statement, None, said, module.Error, connection_invalidated=lost, dialect=connection.dialect
    )
    if lost:
        connection.invalidate(said)
    return wrapped if isinstance(wrapped, Exception) else error
