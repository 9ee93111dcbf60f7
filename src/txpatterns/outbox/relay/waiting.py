"""What waits beside the outbox, for those who write it: scheduled messages, failing ones, and those behind these.

Every write is made under the lease of its bucket, locked in the same transaction, so that a relay that was paused and
replaced changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.coordination import Held, Leases
from txpatterns.database.database import Database
from txpatterns.deadletters.store import Death, scrub
from txpatterns.errors import LeaseLost
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay.rows import Lane, Row, bucket_of_lane
from txpatterns.outbox.schema import COLUMNS, Waiting, waiting_table
from txpatterns.retries import FailurePolicies, OnFailure

T = TypeVar("T")
SHARED = ("position", *COLUMNS)
"""The columns that go with a message from the outbox to what waits, and back."""
ID = ("message_id",)
CHUNK = 2000
"""Rows that one transaction reads or moves."""


class WaitingTable:
    """The writes that holding up lanes and trying messages again have in common."""

    def __init__(self, database: Database, leases: Leases, policies: FailurePolicies, random: Random) -> None:
        self.database = database
        self.leases = leases
        self.policies = policies
        self.random = random

    async def _guarded(self, slots: Held, work: Callable[[Connection], T]) -> T:
        """Do some work while these buckets are ours. Raises LeaseLost."""

        def guarded(connection: Connection) -> T:
            if len(self.leases.guard(connection, slots)) < len(slots):
                raise LeaseLost("Another relay has taken over a bucket.")
            return work(connection)

        return await self.database.transact(guarded)

    def _update(self, message_id: str) -> sa.Update:
        return sa.update(waiting_table).where(waiting_table.c.message_id == message_id)

    def _parks(self, topic: str) -> bool:
        return self.policies.of(topic).on_failure is OnFailure.PARK

    def _park(self, connection: Connection, lane: Lane) -> None:
        behind = in_lane(lane, (Waiting.BEHIND,))
        connection.execute(sa.update(waiting_table).where(behind).values(state=Waiting.PARKED))


def slots_of(held: Held, *buckets: int) -> dict[int, int]:
    """Give these buckets with the epochs under which they are ours; one that is not ours any more has none."""
    return {bucket: held.get(bucket, -1) for bucket in buckets}


def in_lane(lane: Lane, states: Sequence[Waiting]) -> sa.ColumnElement[bool]:
    """Say that a row is of this lane, in one of these states."""
    topic, key = lane
    place = (waiting_table.c.bucket == bucket_of_lane(lane), waiting_table.c.topic == topic)
    return sa.and_(*place, waiting_table.c.key == key[1:], waiting_table.c.state.in_(states))


def in_buckets(buckets: Collection[int]) -> list[sa.ColumnElement[bool]]:
    """Say that a row is in one of these buckets: nothing, where they are all."""
    return [] if len(buckets) == BUCKETS else [waiting_table.c.bucket.in_(sorted(buckets))]


def death_of(row: Row, attempts: int, error: str, *, permanent: bool) -> Death:
    """Say how a message died that could not be published."""
    return Death(row.message, attempts, "rejected" if permanent else "attempts used up", error, row.position)


def said(error: Exception | None) -> str:
    """Give what is kept of an error."""
    return scrub(f"{type(error).__name__}: {error}") if error is not None else "the broker gave no answer"
