"""The worker numbers of this process: taken, renewed each second, and given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, Self
from uuid import uuid4
from weakref import ref

from txpatterns.clock import Clock, SystemClock
from txpatterns.database.database import Database
from txpatterns.ids.marks import Grant, is_ahead
from txpatterns.ids.upkeep import Upkeep
from txpatterns.ids.worker_store import DatabaseWorkers, WorkerStore
from txpatterns.runtime.forks import forget_after_fork

logger = logging.getLogger("txpatterns.ids")


class Holder(Protocol):
    """Who makes ids under a worker number."""

    def granted(self, grant: Grant) -> None:
        """Go on under this number."""

    def extended(self, worker: int, mark: int) -> None:
        """Go on up to this mark, if this is the number that is used."""

    def lost(self) -> None:
        """Make no more."""


class Seat:
    """One worker number at a time, for one holder."""

    def __init__(self, holder: Holder) -> None:
        self._holder = ref(holder)
        self.grant: Grant | None = None
        self._owner = str(uuid4())
        self._tokens: list[str] = []
        """Those that may be the last one: of a call whose answer is lost it is not known what it did."""

    @property
    def is_left(self) -> bool:
        """Whether nobody refers to the holder any more."""
        return self._holder() is None

    async def tend(self, store: WorkerStore) -> None:
        """Take a number, or keep the one that is there. Raises what the store raises."""
        if self.grant is not None:
            await self._renew(self.grant, store)
        if self.grant is None:
            former, token = list(self._tokens), self._drawn()
            self.grant = grant = await store.take(self._owner, former, token)
            self._tokens = [token]
            self._tell(lambda holder: holder.granted(grant))

    async def _renew(self, grant: Grant, store: WorkerStore) -> None:
        token = self._drawn()
        renewal = await store.renew(grant.worker, self._owner, self._tokens, token)
        if renewal is None:
            logger.warning("worker number %d is another's now; another one is taken", grant.worker)
            self._lose()
            return
        self._tokens = [token]
        if is_ahead(renewal.mark, renewal.now):
            logger.warning("the mark of worker number %d is far ahead of the clock; another is taken", grant.worker)
            self._lose()
        else:
            self._tell(lambda holder: holder.extended(grant.worker, renewal.mark))

    async def give_back(self, store: WorkerStore) -> None:
        """Make no more ids, and let others have the number."""
        self._lose()
        if self._tokens:
            await store.release(self._owner, self._tokens)
            self._tokens = []

    def after_fork(self) -> None:
        """Begin as somebody else: what the parent has is the parent's still."""
        self.grant, self._owner, self._tokens = None, str(uuid4()), []

    def _drawn(self) -> str:
        token = str(uuid4())
        self._tokens.append(token)
        return token

    def _lose(self) -> None:
        self.grant = None
        self._tell(lambda holder: holder.lost())

    def _tell(self, word: Callable[[Holder], None]) -> None:
        holder = self._holder()
        if holder is not None:
            word(holder)


class WorkerNumbers:
    """Keeps a worker number for each generator of this process, in a `Database` or another store.

    A number is taken at the first id and renewed each second, in a thread on a connection of its own; in an App that
    runs, by a background part of that. ``close``, or a ``with`` block, gives the numbers back; without it, others may
    take them after 15 seconds. While the store is away, there are ids for three seconds.
    """

    def __init__(self, store: Database | WorkerStore, *, clock: Clock | None = None) -> None:
        if isinstance(store, Database):
            clock, store = clock or store.clock, DatabaseWorkers(store)
        self._clock = clock or SystemClock()
        self._seats: list[Seat] = []
        self.upkeep: Upkeep[WorkerStore] = Upkeep(
            "worker numbers", store, self._clock, tend=self._tend, leave=self._give_back
        )
        forget_after_fork(self)

    @property
    def nanoseconds(self) -> Callable[[], int]:
        """What tells the time for ids: nanoseconds since 1970.

        Under a clock that is moved by hand, as in a test, it is no time at all: ids count on from where they began, for
        a renewal each second would stand in the way of whoever moves it.
        """
        clock = self._clock
        if isinstance(clock, SystemClock):
            return time.time_ns
        return lambda: 0 if clock.instant is not None else int(clock.now().timestamp() * 1000) * 1_000_000

    @property
    def reason(self) -> str:
        """Why there are no ids now, if there are none."""
        if self.upkeep.failure is not None:
            return f"The worker number cannot be kept: {self.upkeep.failure}"
        if any(seat.grant is None for seat in self._seats):
            return "No worker number is taken."
        return "The ids up to the mark are used up. It rises with the next renewal, within about a second."

    def serve(self, holder: Holder) -> None:
        """Keep a number for one more who makes ids, for as long as it is referred to."""
        self._seats.append(Seat(holder))
        self.upkeep.hurry(anew=True)

    def attention(self) -> list[str]:
        """Say what a person should look at."""
        return [] if self.upkeep.failure is None else [f"ids: {self.upkeep.failure}"]

    def close(self) -> None:
        """Give the numbers back, if a thread keeps them. They are taken again when an id is asked for."""
        self.upkeep.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In a forked child: no number is ours."""
        for seat in self._seats:
            seat.after_fork()

    async def _tend(self, store: WorkerStore) -> None:
        failures: list[Exception] = []
        for seat in list(self._seats):
            try:
                await (seat.give_back(store) if seat.is_left else seat.tend(store))
            except Exception as error:  # noqa: BLE001 - of whatever kind: the others have numbers to renew, too
                failures.append(error)
            else:
                if seat.is_left:
                    self._seats.remove(seat)
        if failures:
            raise failures[0]

    async def _give_back(self, store: WorkerStore) -> None:
        for seat in self._seats:
            await seat.give_back(store)
