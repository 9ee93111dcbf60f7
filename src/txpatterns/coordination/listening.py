"""Hearing wake-ups from other processes, and noticing when they stop coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio.to_thread
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from txpatterns.coordination.hearing import Hearing
from txpatterns.coordination.wakeup import CHANNEL, say, word_of
from txpatterns.database.database import Database
from txpatterns.database.engines import dispose, own_engine
from txpatterns.database.finishing import finish
from txpatterns.database.second import engine_at
from txpatterns.errors import ConfigurationError
from txpatterns.messages import new_id


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """``heartbeat``: how long silence may last before a probe is sent; ``patience``: how long the probe may take."""

    heartbeat: timedelta = timedelta(seconds=30)
    patience: timedelta = timedelta(seconds=5)
    longest_pause: timedelta = timedelta(seconds=30)


class Listener(Hearing):
    """Calls, for each word that another process says, those who are registered for it. PostgreSQL only.

    A word that nobody is registered for is passed over, for a later release may say it.

    Listens on a direct connection: ``listen_url`` of the Database names it where the ordinary URL leads through a
    pooler. A wake-up of our own, sent through the ordinary pool, shows at the start and in every silence whether
    wake-ups arrive. When they do not, that is said once, the connection is opened again, and polling goes on.
    """

    def __init__(self, database: Database, *, settings: ListenSettings | None = None) -> None:
        self._settings = settings or ListenSettings()
        super().__init__(database, self._settings.longest_pause)
        self._news = asyncio.Event()
        self._probe = ""
        self._arrived = asyncio.Event()
        self._lost = False

    @override
    def stop(self) -> None:
        super().stop()
        self._news.set()

    @override
    async def _attend(self) -> bool:
        async with self._listening():
            return await self._hear()

    async def _hear(self) -> bool:
        """Pass wake-ups on until the connection is lost; says whether any came."""
        self._call_all()  # something may have been committed while nobody listened
        heard = False
        while not self._stopping.is_set():
            if not await self._arrives():
                self._trouble(
                    "one of our own was swallowed. If the database URL leads through a pooler, name the direct one: "
                    "listen_url=..."
                )
                return heard
            self._well()
            heard = True
            await self._until_silence()
        return heard

    async def _until_silence(self) -> None:
        """Return after a heartbeat's time without any wake-up, or at the end."""
        while not self._stopping.is_set() and not self._lost:
            self._news.clear()
            if not await self._database.clock.wait(self._news, self._settings.heartbeat):
                return

    async def _arrives(self) -> bool:
        """Send a wake-up that names itself, on another connection, and wait for it."""
        self._probe = new_id()
        self._arrived.clear()
        await self._database.transact(lambda connection: say(connection, self._probe))
        return not self._lost and await self._database.clock.wait(self._arrived, self._settings.patience)

    def _heard(self, payload: str) -> None:
        if payload and payload == self._probe:
            self._arrived.set()
        else:
            self._call(word_of(payload))
        self._news.set()

    def _closed(self) -> None:
        self._lost = True
        self._news.set()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        address = self._database.listen_url
        engine = own_engine(self._database.engine) if address is None else engine_at(self._database.engine, address)
        self._lost = False
        try:
            if isinstance(engine, AsyncEngine):
                async with self._listening_with(engine):
                    yield
            else:
                async with self._listening_plainly(engine):
                    yield
        finally:
            await finish(dispose(engine))

    @asynccontextmanager
    async def _listening_with(self, engine: AsyncEngine) -> AsyncIterator[None]:
        connection = engine.connect()
        try:
            await finish(connection.start())
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if engine.dialect.driver == "asyncpg":
                await self._listen_asyncpg(driver)
                yield
            else:
                await driver.execute(f"LISTEN {CHANNEL}")
                async with _beside(self._listen_psycopg(driver)):
                    yield
        finally:
            if connection.sync_connection is not None:
                await finish(connection.invalidate())  # it must never go back to a pool while it listens
                await finish(connection.close())

    @asynccontextmanager
    async def _listening_plainly(self, engine: Engine) -> AsyncIterator[None]:
        """Listen on a connection that blocks, just as the application opens its own: the loop watches its socket."""
        connection = await finish(anyio.to_thread.run_sync(_listen_on, engine))
        loop = asyncio.get_running_loop()
        driver: Any = connection.connection.driver_connection
        socket = driver.fileno()
        loop.add_reader(socket, self._take_in, driver)
        try:
            self._take_in(driver)  # what came since then wakes nobody
            yield
        finally:
            loop.remove_reader(socket)
            await finish(anyio.to_thread.run_sync(_close, connection))

    def _take_in(self, driver: Any) -> None:
        try:
            driver.pgconn.consume_input()
            while (notification := driver.pgconn.notifies()) is not None:
                self._heard(notification.extra.decode())
        except driver.Error:
            asyncio.get_running_loop().remove_reader(driver.fileno())
            self._closed()

    async def _listen_asyncpg(self, driver: Any) -> None:
        driver.add_termination_listener(lambda _connection: self._closed())
        await driver.add_listener(CHANNEL, lambda _connection, _pid, _channel, payload: self._heard(payload))

    async def _listen_psycopg(self, driver: Any) -> None:
        try:
            async for notification in driver.notifies():
                self._heard(notification.payload)
        finally:
            self._closed()


def _listen_on(engine: Engine) -> Connection:
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        if not hasattr(connection.connection.driver_connection, "pgconn"):
            raise ConfigurationError(f"{engine.dialect.driver} cannot be listened to.", fix="Use psycopg or asyncpg.")
    except BaseException:
        _close(connection)
        raise
    return connection


def _close(connection: Connection) -> None:
    connection.invalidate()  # it must never go back to a pool while it listens
    connection.close()


@asynccontextmanager
async def _beside(work: Any) -> AsyncIterator[None]:
    """Run a coroutine beside the block, and end it with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
