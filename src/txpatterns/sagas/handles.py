"""Waiting for what becomes of a saga: told at once where it runs in this process, found by looking elsewhere."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from txpatterns.database import deferred
from txpatterns.errors import NotCommitted, SagaFailed, UnknownSaga
from txpatterns.sagas.claims import Start
from txpatterns.sagas.definitions import Definition
from txpatterns.sagas.schema import Status
from txpatterns.sagas.store import SagaStore, Standing

R = TypeVar("R")

_LOOK, _LOOK_BESIDE = timedelta(milliseconds=100), timedelta(seconds=1)
"""How often it is looked for, where no engine runs in this process, and where one does that tells of its ends."""


class Outcome(NamedTuple):
    """What a saga has come to."""

    status: str
    result: str | None
    error: str | None


def outcome_of(standing: Standing) -> Outcome | None:
    """Give what a saga has come to that ends with this; None: its row alone says why."""
    if standing.status == Status.COMPENSATED and standing.error is None:
        return None
    return Outcome(standing.status, standing.result, standing.error)


class Told:
    """What the engines of this process have told of a saga; None: not that it has ended."""

    outcome: Outcome | None = None


class Ends:
    """Who waits for the end of which saga, in any event loop of this process."""

    def __init__(self) -> None:
        self.engines = 0
        """How many engines of this process tell of their sagas' ends."""
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._told: weakref.WeakValueDictionary[tuple[str, str], Told] = weakref.WeakValueDictionary()

    def of(self, type_: str, id_: str) -> Told:
        """Give what is told of a saga from now on; it is kept for as long as somebody has it."""
        with self._lock:
            return self._told.setdefault((type_, id_), Told())

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

    def tell(self, type_: str, id_: str, outcome: Outcome | None) -> None:
        """A saga has ended; ``outcome`` is what it has come to, where that is known."""
        with self._lock:
            told = self._told.get((type_, id_))
            if told is not None:
                told.outcome = outcome
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

    @property
    def has_begun_here(self) -> bool:
        """Whether its commit has made it an engine's of this process."""
        return self._start.has_begun_here


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
        self._told = ends.of(definition.type, id_)
        self.id = id_
        """The saga's id."""
        self.type = definition.type
        """Application and name of the saga."""

    async def status(self) -> str | None:
        """Say where the saga stands; None: there is none, or what starts it is not committed."""
        found = await self._read()
        return None if found is None else found.status

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
        within = asyncio.timeout(None if timeout is None else timeout.total_seconds())
        try:
            async with within:
                return self._result_of(await self._outcome())
        except TimeoutError as error:
            if not within.expired():
                raise
            late = f"{self.id} of {self.type} had not ended after {timeout}; it goes on: txp saga show {self.id}"
            raise TimeoutError(late) from error

    async def _outcome(self) -> Outcome:
        """Wait until it has ended."""
        is_there = self._origin is not None and self._origin.has_begun_here  # so there is nothing to look for yet
        while True:
            with self._ends.awaited(self.type, self.id) as ended:
                outcome = self._told.outcome or (None if is_there else await self._looked())
                if outcome is not None:
                    return outcome
                is_there = False
                await self._store.database.clock.wait(ended, _LOOK_BESIDE if self._ends.engines else _LOOK)

    async def _looked(self) -> Outcome | None:
        """Read what it has come to, if it has ended."""
        found = await self._read()
        if found is None:
            raise self._missing()
        return found if found.status in (Status.COMPLETED, Status.COMPENSATED) else None

    def _result_of(self, outcome: Outcome) -> R:
        if outcome.status == Status.COMPENSATED:
            raise SagaFailed(self.id, Status.COMPENSATED, outcome.error or "")
        return cast("R", self._definition.result.read(outcome.result or "null"))

    def _missing(self) -> NotCommitted | UnknownSaga:
        if self._origin is None:
            return UnknownSaga(f"There is no saga {self.id} of {self.type}.")
        return NotCommitted(
            f"{self.id} was not started: its transaction was rolled back, or another one around it is open still."
        )

    async def _read(self) -> Outcome | None:
        row = await self._store.database.read(partial(self._store.find, type_=self.type, id_=self.id))
        return None if row is None else Outcome(str(row["status"]), row["result"], row["error"])

    def __repr__(self) -> str:
        return f"Handle({self.type!r}, {self.id!r})"
