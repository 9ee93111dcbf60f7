"""Bugs that people do write in a generator of ids, each put into a process of the explorer to see that it is found."""

from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from rig.planting import instead_of
from txpatterns.ids import worker_store
from txpatterns.ids.generator import SnowflakeGenerator
from txpatterns.ids.layout import LAST_MILLISECOND
from txpatterns.ids.marks import Grant, granted
from txpatterns.ids.schema import worker_table
from txpatterns.ids.worker_store import DatabaseWorkers, Unused
from txpatterns.ids.workers import Seat
from txpatterns.testing.explorer import Surroundings

_PATCH = pytest.MonkeyPatch()
"""Nobody undoes it: a process of the explorer ends with its bug."""


def begins_at_the_clock(_: Surroundings) -> None:
    """Any free number, from now on: whoever had it may have counted ahead, or had another clock."""
    unused = DatabaseWorkers._unused

    @instead_of(_PATCH, DatabaseWorkers, unused)
    def whichever(self: DatabaseWorkers, connection: sa.Connection, now: int | None) -> Unused | None:
        return unused(self, connection, None)

    @instead_of(_PATCH, worker_store, granted)
    def from_now_on(worker: int, before: int, now: int) -> Grant:
        return Grant(worker, now - 1, max(before, granted(worker, before, now).mark))


def trusts_its_lease(_: Surroundings) -> None:
    """No mark: who holds a number goes on until it hears that it has lost it."""
    real = SnowflakeGenerator.granted

    @instead_of(_PATCH, SnowflakeGenerator, real)
    def without_an_end(self: SnowflakeGenerator, grant: Grant) -> None:
        real(self, Grant(grant.worker, grant.above, LAST_MILLISECOND))


def goes_on_before_the_commit(_: Surroundings) -> None:
    """The new mark is used although the transaction that writes it may fail."""
    real = Seat._renew

    @instead_of(_PATCH, Seat, real)
    async def ahead(self: Seat, grant: Grant, store: worker_store.WorkerStore) -> None:
        holder = self._holder()
        assert isinstance(holder, SnowflakeGenerator)
        holder.extended(grant.worker, grant.mark + 3_600_000)
        await real(self, grant, store)


def forgets_the_mark_of_who_leaves(_: Surroundings) -> None:
    """Gives a number back with its row."""

    @instead_of(_PATCH, DatabaseWorkers, DatabaseWorkers._free)
    def delete(self: DatabaseWorkers, connection: sa.Connection, owner: str, tokens: Sequence[str]) -> None:
        row = worker_table.c
        connection.execute(sa.delete(worker_table).where(row.owner == owner, row.token.in_(tokens)))
