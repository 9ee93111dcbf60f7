"""The queue that each lane has in the database, and how messages enter it.

What keeps it whole: only the first of a lane is ever due (a unique index says so); who appends first locks a row of
the lane, and writes to it, so that whoever takes that row out afterwards sees the appended one and makes it due.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.database import Database
from txpatterns.database.dialects import insert_into
from txpatterns.database.stored import message_of
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.deadletters.store import Death, bury, scrub
from txpatterns.inbox.claims import Claims
from txpatterns.inbox.entries import Entry, WaitingEntry
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.inbox.standing import Standing

_waiting = inbox_waiting_table.c
_LOCK = 7430
"""Sets our advisory locks apart from those of others."""


@dataclass(frozen=True, slots=True)
class First:
    """How a message is stored if it is the first of its lane."""

    state: State
    attempts: int
    after: timedelta | None
    """Until it is due; None when it is parked."""
    error: str | None = None


class LaneStore:
    """Reads and writes the waiting messages, each method in its caller's transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.claims = Claims(database)

    def admit(self, connection: Connection, entry: Entry, first: First | None) -> tuple[Standing, int | None]:
        """Store a message behind its lane, or as ``first`` of an empty one; gives its row id when it is the first."""
        known = self._known(connection, entry)
        if known is not None:
            return known, None
        if self._hold(connection, entry):
            self._add(connection, entry, First(State.BEHIND, 0, None, first.error if first else None))
            return Standing.BEHIND, None
        if first is None or self._occupied(connection, entry):
            return Standing.AGAIN, None
        row = self._add(connection, entry, first)
        return (Standing.AGAIN, None) if row is None else (Standing.FIRST, row)

    def bury_first(
        self, connection: Connection, entry: Entry, *, reason: str, error: str, park: bool
    ) -> Standing | None:
        """Make a dead letter of a message at its first attempt, and park its lane if asked to.

        Gives what was known of the message where that makes a dead letter wrong, otherwise None.
        """
        known = self._known(connection, entry)
        if known is None:
            self.bury(connection, entry, attempts=1, reason=reason, error=error)
            if park:
                self._add(connection, entry, First(State.PARKED, 1, None, error))
        return known

    def bury(self, connection: Connection, entry: Entry, *, attempts: int, reason: str, error: str) -> bool:
        """Make a dead letter; says whether it is a new one. A broker that repeats itself adds none."""
        dead = dead_letter_table.c
        query = sa.select(dead.id).where(
            dead.message_id == entry.message.id,
            dead.consumer == entry.consumer,
            dead.reason == reason,
            dead.payload == entry.message.payload,
        )
        if connection.execute(query.limit(1)).first() is not None:
            return False
        death = Death(entry.message, attempts, reason, error, entry.consumer)
        bury(connection, [death], now=self.database.now())
        return True

    def bury_unread(self, connection: Connection, entry: Entry, *, reason: str, error: str) -> bool:
        """Make a dead letter of what no handler can be given, unless an operator has dealt with it before."""
        if self.claims.has(connection, entry):
            return False
        return self.bury(connection, entry, attempts=0, reason=reason, error=error)

    def promote(self, connection: Connection, entry: Entry) -> bool:
        """Make the next of a lane due now; says whether one waits."""
        waiting = inbox_waiting_table.alias()
        lowest = (
            sa.select(waiting.c.id)
            .where(waiting.c.consumer == entry.consumer, waiting.c.lane == entry.lane)
            .order_by(waiting.c.id)
            .limit(1)
        )
        statement = (
            sa.update(inbox_waiting_table)
            .where(_waiting.id == lowest.scalar_subquery(), _waiting.state == State.BEHIND)
            .values(state=State.RETRYING, due_at=self.database.now(), attempts=0)
        )
        return self.database.execute_beside(connection, statement).rowcount == 1

    def release(self, connection: Connection, consumer: str, lane: str) -> bool:
        """Let a parked lane go on; says whether it was parked."""
        found = connection.execute(
            sa.delete(inbox_waiting_table)
            .where(_waiting.consumer == consumer, _waiting.lane == lane, _waiting.state == State.PARKED)
            .returning(*inbox_waiting_table.columns)
        ).mappings()
        row = found.one_or_none()
        if row is None:
            return False
        self.promote(connection, waiting_of(row).entry)
        return True

    def _known(self, connection: Connection, entry: Entry) -> Standing | None:
        """Say what is known of a message; if nothing is, no other process stores or buries it before we end."""
        handled = self.claims.fingerprint(connection, entry.consumer, entry.message.id)
        if handled is None:
            self._lock(connection, entry)
            query = sa.select(_waiting.fingerprint).where(
                _waiting.consumer == entry.consumer, _waiting.message_id == entry.message.id
            )
            waiting = connection.execute(query).scalar_one_or_none()
            if waiting is not None:
                return self._same(connection, entry, waiting, Standing.STORED)
            # It may have waited at the first look, and be handled by now.
            handled = self.claims.fingerprint(connection, entry.consumer, entry.message.id)
        if handled is not None:
            return self._same(connection, entry, handled, Standing.DUPLICATE)
        return self._dead(connection, entry)

    def _lock(self, connection: Connection, entry: Entry) -> None:
        """Wait for another process that stores or buries the same message: there is no row yet that both could lock.

        A handler of that message which runs elsewhere is not waited for: it may take long.
        """
        if not self.database.is_sqlite:
            number = sa.func.hashtextextended(f"{entry.consumer} {entry.message.id}", _LOCK)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))

    def _dead(self, connection: Connection, entry: Entry) -> Standing | None:
        dead = dead_letter_table.c
        query = sa.select(dead.payload).where(dead.message_id == entry.message.id, dead.consumer == entry.consumer)
        payloads = connection.execute(query).scalars().all()
        if not payloads:
            return None
        same = any(payload == entry.message.payload for payload in payloads)
        return self._same(connection, entry, entry.fingerprint if same else "another", Standing.STORED)

    def _same(self, connection: Connection, entry: Entry, fingerprint: str, answer: Standing) -> Standing:
        if fingerprint in ("", entry.fingerprint):
            return answer
        error = f"Another message with the id {entry.message.id} came before, with other content."
        fresh = self.bury(connection, entry, attempts=0, reason="id reused", error=error)
        return Standing.REUSED if fresh else Standing.STORED

    def _hold(self, connection: Connection, entry: Entry) -> bool:
        """Lock a row of the lane until the transaction ends, and change it; says whether there was one to lock.

        Rows that another transaction has locked are passed over: a handler may hold the first one for long. The
        change makes a transaction with an older snapshot fail and run again instead of missing what is appended.
        """
        query = (
            sa.select(_waiting.id)
            .where(_waiting.consumer == entry.consumer, _waiting.lane == entry.lane)
            .order_by(_waiting.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = connection.execute(query).scalar_one_or_none()
        if row is None:
            return False
        touched = sa.update(inbox_waiting_table).where(_waiting.id == row).values(state=_waiting.state)
        return connection.execute(touched).rowcount == 1

    def _occupied(self, connection: Connection, entry: Entry) -> bool:
        """Whether the lane has rows, though none could be locked: an insert would wait for the handler that runs."""
        query = sa.select(_waiting.id).where(_waiting.consumer == entry.consumer, _waiting.lane == entry.lane)
        return connection.execute(query.limit(1)).first() is not None

    def _add(self, connection: Connection, entry: Entry, place: First) -> int | None:
        message = entry.message
        statement = insert_into(inbox_waiting_table, on_sqlite=self.database.is_sqlite).values(
            consumer=entry.consumer,
            message_id=message.id,
            lane=entry.lane,
            fingerprint=entry.fingerprint,
            topic=message.topic,
            type=message.type,
            key=message.key,
            payload=message.payload,
            headers=json.dumps(dict(message.headers)),
            content_type=message.content_type,
            occurred_at=message.occurred_at,
            state=place.state,
            attempts=place.attempts,
            due_at=None if place.after is None else self.database.now(place.after),
            error=None if place.error is None else scrub(place.error),
        )
        returning = statement.on_conflict_do_nothing().returning(_waiting.id)
        return connection.execute(returning).scalar_one_or_none()


def waiting_of(row: RowMapping) -> WaitingEntry:
    """Make a waiting message of its row."""
    entry = Entry(row["consumer"], message_of(row), row["lane"], row["fingerprint"])
    return WaitingEntry(row["id"], entry, row["attempts"], row["state"])
