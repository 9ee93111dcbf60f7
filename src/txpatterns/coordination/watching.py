"""Hearing what others commit to a SQLite file, where nobody can say words.

SQLite keeps a number for each connection that changes when another one has committed. Asking for it takes some
microseconds and reads no table. Only when it has changed, which a renewed lease does as well, the signs of the parts
are read; a part is called when its own has changed. So what the library writes in the background wakes nobody.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from typing_extensions import override

from txpatterns.coordination.hearing import Hearing
from txpatterns.database.database import Database
from txpatterns.database.engines import AnyEngine, sync_side
from txpatterns.database.finishing import finish
from txpatterns.database.home import base_engine

_LOCKED = timedelta(seconds=1)
"""How long a question may wait for one who has locked the whole file."""
_VERSION = "PRAGMA data_version"

_ENDED = object()
_EVERY = timedelta(milliseconds=200)
_PATIENCE = timedelta(seconds=5)
"""How old the last answer may be to count on the next."""
_LONGEST_PAUSE = timedelta(seconds=30)

Signs = Mapping[str, sa.Select[Any] | None]
"""What is read for each word. None: any commit may be meant."""


class Rounds:
    """A thread that visits the files of one event loop in turn, again and again, for as long as there are any.

    All in one: waking up costs more than asking.
    """

    def __init__(self) -> None:
        self._visits: list[Iterator[None]] = []
        self._lock = threading.Lock()
        self._hurry = threading.Event()

    def begin(self, visits: Iterator[None]) -> None:
        """Take the next step of an iterator in each round, the first one at once, until it ends. It must not raise."""
        with self._lock:
            self._visits.append(visits)
            if len(self._visits) == 1:
                threading.Thread(target=self._go, name="txpatterns file watch", daemon=True).start()
        self.hurry()

    def hurry(self) -> None:
        """Let the next round begin at once."""
        self._hurry.set()

    def _go(self) -> None:
        while True:
            self._hurry.wait(_EVERY.total_seconds())
            self._hurry.clear()
            for visits in tuple(self._visits):
                if next(visits, _ENDED) is _ENDED:
                    with self._lock:
                        self._visits.remove(visits)
                        if not self._visits:
                            return


_rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, Rounds] = WeakKeyDictionary()


class FileWatch(Hearing):
    """Calls the parts whose signs change when another connection commits, in any process. SQLite only.

    It asks five times a second, on a connection of its own. That fails where the file is gone or another one is in its
    place, and then begins anew. One that hangs, on a dead disk for example, is not counted on.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database, _LONGEST_PAUSE)
        self._rounds: Rounds | None = None
        self._over = False
        self._answered_at = float("-inf")

    @staticmethod
    def serves(database: Database) -> bool:
        """Whether this database is a file that a plain connection reaches."""
        return database.is_sqlite and isinstance(database.home.base, Engine)

    @property
    @override
    def hears(self) -> bool:
        """Whether wake-ups are known to arrive: the last answer is not old."""
        return self._is_well and time.monotonic() - self._answered_at < _PATIENCE.total_seconds()

    @override
    def stop(self) -> None:
        super().stop()
        self._end()

    @override
    async def _attend(self) -> bool:
        loop, ended, raised = asyncio.get_running_loop(), asyncio.Event(), list[Exception]()
        self._over = False

        def visits() -> Iterator[None]:
            try:
                yield from self._visits(loop)
            except Exception as error:  # noqa: BLE001 - raised in the loop
                raised.append(error)
            finally:
                with suppress(RuntimeError):  # the loop is gone, and with it those who would be called
                    loop.call_soon_threadsafe(ended.set)

        rounds = self._rounds = _rounds.setdefault(loop, Rounds())
        rounds.begin(visits())
        try:
            await ended.wait()
        finally:
            self._end()
            await finish(ended.wait())
        if raised:
            raise raised[0]
        return True

    def _visits(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Ask once in each round, until the end; that of a loop that was closed in the middle of its work, too."""
        tell = loop.call_soon_threadsafe
        with watched(self._database.engine, self._signs) as file:
            has_begun = False
            while True:
                yield
                if self._over or loop.is_closed():
                    return
                news, self._answered_at = file.news(), time.monotonic()
                for word in news:
                    tell(self._call, word)
                if not has_begun:
                    has_begun = True
                    tell(self._begin)

    def _begin(self) -> None:
        self._well()
        self._call_all()  # something may have been committed while nobody watched

    def _end(self) -> None:
        self._over = True
        if self._rounds is not None:
            self._rounds.hurry()


class WatchedFile:
    """A connection that notices what others commit. It belongs to the thread that has opened it."""

    def __init__(
        self, connection: DBAPIConnection, dialect: Dialect, signs: Mapping[str, sa.Select[Any] | None]
    ) -> None:
        self._cursor = connection.cursor()
        self._cursor.execute(f"PRAGMA busy_timeout = {_LOCKED // timedelta(milliseconds=1)}")
        [path] = [row[2] for row in self._all("PRAGMA database_list") if row[1] == "main"]
        self._path = Path(path)
        self._file = self._identity()
        self._signs = {word: None if sign is None else _text_of(sign, dialect) for word, sign in signs.items()}
        self._version = self._all(_VERSION)
        self._found = self._look()

    def news(self) -> list[str]:
        """Give the words whose signs have changed since the last call.

        Raises:
            OSError: the file is gone, or another one is in its place.
        """
        if self._identity() != self._file:
            raise OSError("another file is in the place of the database")
        version = self._all(_VERSION)
        if version == self._version:
            return []
        before, self._version, self._found = self._found, version, self._look()
        return [word for word, sign in self._signs.items() if sign is None or self._found[word] != before[word]]

    def _look(self) -> dict[str, list[Any]]:
        return {word: self._all(sign) for word, sign in self._signs.items() if sign is not None}

    def _all(self, statement: str) -> list[Any]:
        self._cursor.execute(statement)
        return list(self._cursor.fetchall())

    def _identity(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino


@contextmanager
def watched(engine: AnyEngine, signs: Signs) -> Iterator[WatchedFile]:
    """Open a connection to a file and close it again.

    Raises:
        OSError: there is no such file; none is made.
    """
    own = sync_side(base_engine(engine))
    name = own.url.database or ""
    if not name.startswith("file:"):
        Path(name).stat()
    try:
        with closing(own.raw_connection()) as connection:
            yield WatchedFile(connection, own.dialect, signs)
    finally:
        own.dispose()


def _text_of(sign: sa.Select[Any], dialect: Dialect) -> str:
    return str(sign.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
