"""Waiting for what becomes of a saga: told at once where it runs in this process, found by looking elsewhere."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar, cast

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from txpatterns.database import deferred
from txpatterns.errors import NotCommitted, SagaFailed, UnknownSaga
from txpatterns.sagas.claims import Start
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import SagaStore

R = TypeVar("R")

_LOOK, _LOOK_BESIDE = timedelta(milliseconds=100), timedelta(seconds=1)
"""How often it is looked for, where no engine runs in this process, and where one does that tells of its ends."""


class Ends:
    """Who waits for the end of which saga, in any event loop of this process."""

    def __init__(self) -> None:
        self.engines = 0
        """How many engines of this process tell of their sagas' ends."""
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    @contextmanager
    def awaited(self, type_: str, id_: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when a saga has ended here, for as long as the block lasts."""
        entry, saga = (asyncio.get_running_loop(), asyncio.Event()), (type_, id_)
        with self._lock:
            self._waiting.setdefault(saga, []).append(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                self._waiting[saga].remove(entry)
                if not self._waiting[saga]:
                    del self._waiting[saga]

    @contextmanager
    def told(self, *, here: bool) -> Iterator[None]:
        """Count on being told for as long as the block lasts, if an engine runs ``here``."""
        self.engines += here
        try:
            yield
        finally:
            self.engines -= here

    def tell(self, type_: str, id_: str) -> None:
        """A saga has ended."""
        with self._lock:
            entries = list(self._waiting.get((type_, id_), ()))
        for loop, event in entries:
            with suppress(RuntimeError):  # that loop is no more
                loop.call_soon_threadsafe(event.set)


class Origin:
    """The transaction that starts a saga."""

    def __init__(self, transaction: Session | Connection, start: Start) -> None:
        self._transaction = weakref.ref(transaction)
        self._start = start

    @property
    def is_open(self) -> bool:
        """Whether the start still waits for its commit."""
        transaction = self._transaction()
        waiting = [] if transaction is None else deferred.pending(transaction, deferred.Kind.SAGAS)
        return any(start is self._start for start in waiting)


class Handle(Generic[R]):
    """One saga, for whoever wants to know what becomes of it.

    ``origin`` is the transaction that starts it, where the handle came from there.
    """

    def __init__(
        self, store: SagaStore, ends: Ends, definition: Definition, id_: str, origin: Origin | None = None
    ) -> None:
        self._store = store
        self._ends = ends
        self._definition = definition
        self._origin = origin
        self.id = id_
        """The saga's id."""
        self.type = definition.type
        """Application and name of the saga."""

    async def status(self) -> str | None:
        """Say where the saga stands; None: there is none, or what starts it is not committed."""
        found = await self._read()
        return None if found is None else str(found["status"])

    async def result(self, *, timeout: timedelta | None = None) -> R:
        """Wait until the saga has ended; gives what its code has returned.

        Raises:
            SagaFailed: it was undone.
            NotCommitted: at once: the transaction that starts it is open still, or was rolled back.
            UnknownSaga: at once: there is no saga with this id.
            TimeoutError: it had not ended after that time; it goes on.
        """
        if self._origin is not None and self._origin.is_open:
            raise NotCommitted(f"{self.id} is not started yet: its transaction is open.")
        clock = self._store.database.clock
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            while True:
                with self._ends.awaited(self.type, self.id) as ended:
                    found = await self._read()
                    if found is None:
                        raise self._missing()
                    match found["status"]:
                        case Status.COMPLETED:
                            return cast("R", self._definition.result.read(found["result"]))
                        case Status.COMPENSATED:
                            raise SagaFailed(self.id, Status.COMPENSATED, found["error"])
                    await clock.wait(ended, _LOOK_BESIDE if self._ends.engines else _LOOK)

    def _missing(self) -> NotCommitted | UnknownSaga:
        if self._origin is None:
            return UnknownSaga(f"There is no saga {self.id} of {self.type}.")
        return NotCommitted(
            f"{self.id} was not started: its transaction was rolled back, or another one around it is open still."
        )

    async def _read(self) -> Any:
        find = partial(self._store.find, type_=self.type, id_=self.id)
        return await self._store.database.read(find)

    def __repr__(self) -> str:
        return f"Handle({self.type!r}, {self.id!r})"
