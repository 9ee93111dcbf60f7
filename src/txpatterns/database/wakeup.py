"""Telling relays in other processes that something was committed: a hint, on a connection of its own.

Polling is the truth. A wake-up only saves the wait for the next poll, so it is never sent inside a business
transaction, carries no data, and whatever happens to it never reaches the application.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import AnyEngine, own_engine
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns.wakeup")

CHANNEL = "txp_outbox"
MEMBERS = "members"
"""What a wake-up says when relays come, go, or give up buckets; one without a word means new messages."""

_APART = timedelta(milliseconds=2)
_IDLE = timedelta(minutes=1)
_AFTER_FAILURE = timedelta(seconds=1)
_NOTIFY = sa.text(f"NOTIFY {CHANNEL}")


class Notifier:
    """Sends ``NOTIFY`` after commits: gathered, one under way at a time, at least 2 ms apart.

    ``notify`` may be called from any thread; it takes about a microsecond and never fails. The connection is
    opened by the first call, in a thread of its own, and closed after a minute without any.
    """

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._sender = _Sender(engine)

    def notify(self) -> None:
        """Wake the relays soon. Calls while one is under way become one."""
        self._sender.notify()

    def close(self) -> None:
        """Send what is wanted and close the connection; a later call opens another."""
        # A new sender even if the old one does not end in time: they share nothing.
        sender, self._sender = self._sender, _Sender(self._engine)
        sender.close()

    def after_fork(self) -> None:
        """Forget the parent's thread and connection; the child opens its own."""
        self._sender = _Sender(self._engine)


class _Sender:
    """The thread that sends and its connection, until it is closed once."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False

    def notify(self) -> None:
        self._wanted.set()
        if self._thread is None and not self._closing.is_set():
            self._start()

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="txpatterns wake-up", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            self._wanted.wait()
            if not self._closing.is_set() or not self._failing:
                self._session()
            if self._closing.is_set() or not self._wanted.is_set():
                break
        with self._lock:
            self._thread = None
        if self._wanted.is_set() and not self._closing.is_set():
            self._start()  # a call came between the last look and the line before

    def _session(self) -> None:
        """Send on one connection until it fails, or there was nothing to send for a while."""
        engine = own_engine(self._engine)
        try:
            if isinstance(engine, AsyncEngine):
                with asyncio.Runner() as runner:
                    self._send_async(runner, engine)
            else:
                self._send_plain(engine)
            self._failing = False
        except Exception as error:  # noqa: BLE001 - whatever it is, polling goes on
            if not self._failing:
                logger.warning("wake-ups cannot be sent, relays find new messages by polling: %s", error_line(error))
            self._failing = True
            self._closing.wait(_AFTER_FAILURE.total_seconds())

    def _send_plain(self, engine: Engine) -> None:
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while self._is_wanted():
                    connection.execute(_NOTIFY)
        finally:
            engine.dispose()

    def _send_async(self, runner: asyncio.Runner, engine: AsyncEngine) -> None:
        async def connect() -> tuple[AsyncConnection, Any]:
            connection = await engine.connect()
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return connection, (await connection.get_raw_connection()).driver_connection

        try:
            connection, driver = runner.run(connect())
            try:
                while self._is_wanted():
                    # The driver prepares nothing for it: behind a pooler EXECUTE might reach another server.
                    runner.run(driver.execute(_NOTIFY.text))
            finally:
                runner.run(connection.close())
        finally:
            runner.run(engine.dispose())

    def _is_wanted(self) -> bool:
        """Wait for the next call, at least 2 ms; False when there was none for long, or at the end."""
        if self._closing.wait(_APART.total_seconds()) and not self._wanted.is_set():
            return False
        if not self._wanted.wait(_IDLE.total_seconds()):
            return False
        self._wanted.clear()
        return True


def say(connection: Connection, word: str) -> None:
    """Send a wake-up that says something, with the connection's transaction; on SQLite nobody would hear it."""
    if not is_sqlite(connection):
        connection.execute(sa.text("SELECT pg_notify(:channel, :word)"), {"channel": CHANNEL, "word": word})
