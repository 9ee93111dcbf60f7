"""Telling other processes, by a word, that there is something to do: a hint, on a connection of its own.

Polling is the truth. A wake-up only saves the wait for the next poll, so it is never sent inside a business
transaction, carries no data, and whatever happens to it never reaches the application.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
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
"""One for all words. Releases before listen here, and send here without a word, or ``members``."""

OUTBOX = "outbox"
"""There are new messages. It goes without saying: an empty payload, the only one that earlier releases act upon."""
MEMBERS = "members"
"""Relays come, go, or give up buckets."""
INBOX = "inbox"
"""A message that waits for its handler is due sooner than before."""

_APART, _FARTHEST = timedelta(milliseconds=2), timedelta(milliseconds=20)
"""Between the end of a round trip and the next: at least, and at most for the sake of those who write."""
_SHARE = 4
"""So many times as long as a round trip took, the sender rests. It takes long where this process, or the server, is
busy, and then a wake-up is worth least: whoever hears it has enough to do already."""
_IDLE = timedelta(minutes=1)
_AFTER_FAILURE = timedelta(seconds=1)


class Notifier:
    """Sends ``NOTIFY`` after commits: gathered by their words, one round trip under way at a time.

    Between two it rests 2 ms, and up to 20 ms where they take long, so that they cost those who write next to nothing.

    ``notify`` may be called from any thread; it takes about a microsecond and never fails. The connection is
    opened by the first call, in a thread of its own, and closed after a minute without any.
    """

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._sender = _Sender(engine)

    def notify(self, word: str = OUTBOX) -> None:
        """Wake those who listen to a word soon. Calls for one while one is under way become one.

        Raises:
            ValueError: the word is no plain name.
        """
        self._sender.notify(checked(word))

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
        self._words: set[str] = set()
        self._wanted = threading.Event()
        """Set behind each new word, and cleared before they are taken."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False
        self._began_at: float | None = None

    def notify(self, word: str) -> None:
        self._words.add(word)
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
                while statement := self._next():
                    connection.exec_driver_sql(statement)
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
                while statement := self._next():
                    # The driver prepares nothing for it: behind a pooler EXECUTE might reach another server.
                    runner.run(driver.execute(statement))
            finally:
                runner.run(connection.close())
        finally:
            runner.run(engine.dispose())

    def _next(self) -> str:
        """Wait for the next call; gives what is to be sent: nothing after a long silence or at the end.

        A word that cannot be sent is not kept: the one who listens polls.
        """
        began_at, self._began_at = self._began_at, None
        rest = _APART if began_at is None else rest_after(timedelta(seconds=time.monotonic() - began_at))
        if self._closing.wait(rest.total_seconds()) and not self._wanted.is_set():
            return ""
        while self._wanted.wait(_IDLE.total_seconds()):
            self._wanted.clear()
            words: set[str] = set()
            while self._words:
                words.add(self._words.pop())
            if words:
                self._began_at = time.monotonic()
                return "; ".join(map(_notification, sorted(words)))
            if self._closing.is_set():
                break
        return ""


def rest_after(round_trip: timedelta) -> timedelta:
    """Say how long the sender rests after a round trip that took so long."""
    return min(max(_SHARE * round_trip, _APART), _FARTHEST)


def checked(word: str) -> str:
    """Give the word back. Raises ValueError where it is no plain name, which could not be sent as it is."""
    if not word.isidentifier() or not word.isascii():
        raise ValueError(f"{word!r} is no word for a wake-up: letters, digits and underscores")
    return word


def payload_of(word: str) -> str:
    """Give what stands for a word in a notification."""
    return "" if word == OUTBOX else word


def word_of(payload: str) -> str:
    """Give the word that a payload stands for."""
    return payload or OUTBOX


def _notification(word: str) -> str:
    payload = payload_of(word)
    return f"NOTIFY {CHANNEL}, '{payload}'" if payload else f"NOTIFY {CHANNEL}"


def say(connection: Connection, word: str) -> None:
    """Send a wake-up that says something, with the connection's transaction; on SQLite nobody would hear it."""
    if not is_sqlite(connection):
        connection.execute(sa.text("SELECT pg_notify(:channel, :word)"), {"channel": CHANNEL, "word": payload_of(word)})
