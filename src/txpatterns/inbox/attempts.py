"""Further attempts of waiting messages: written before they begin, fenced by their number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.dialects import moment
from txpatterns.database.schema import Instant
from txpatterns.deadletters.store import scrub
from txpatterns.inbox.entries import WaitingEntry, solitary_lane
from txpatterns.inbox.lane_store import LaneStore, waiting_of
from txpatterns.inbox.queues import WAITING
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.inbox.standing import Standing
from txpatterns.retries import Again, OnFailure

_waiting = inbox_waiting_table.c

_NEXT = (
    sa.select(_waiting.due_at, sa.type_coerce(moment("now"), Instant).label("now"))
    .where(_waiting.consumer.in_(sa.bindparam("consumers", expanding=True)), _waiting.due_at <= moment("within"))
    .order_by(_waiting.due_at)
    .limit(1)
)

DIED_IN_ATTEMPT = "The process ended during the last attempt, without telling why."


@dataclass(frozen=True, slots=True)
class Plan:
    """What may happen to a waiting message that is due."""

    next_look: timedelta | None
    """How long after the start of its attempt it is due again, should this process die in it; None: no attempt left."""
    on_failure: OnFailure


class Attempts:
    """The life of a waiting message from its due time to its effect, its next due time or its dead letter."""

    def __init__(self, database: Database, lanes: LaneStore) -> None:
        self.database = database
        self.lanes = lanes

    def claim(
        self,
        connection: Connection,
        consumers: Sequence[str],
        most: int,
        plan_of: Callable[[WaitingEntry], Plan],
        busy: Collection[int] = (),
    ) -> tuple[list[WaitingEntry], list[WaitingEntry]]:
        """Take messages that are due, with the attempt written already; gives those to run and those that died.

        A process that dies from here on has used up this attempt; the message is due again after its plan's time.
        A running attempt has its row locked, so it is never claimed a second time while it can succeed; ``busy``
        are those of this process that have not come so far. A message whose process died in its last attempt becomes
        a dead letter here.
        """
        wanted = (_waiting.consumer.in_(consumers), _waiting.id.not_in(sorted(busy)))
        due = WAITING.due_rows(self.database.now(), *wanted).limit(most)
        found = [waiting_of(row) for row in connection.execute(due).mappings()]
        claimed: list[WaitingEntry] = []
        dead: list[WaitingEntry] = []
        for waiting in found:
            plan = plan_of(waiting)
            if plan.next_look is None:
                self._end(connection, waiting, ("crashed", DIED_IN_ATTEMPT), plan.on_failure)
                dead.append(waiting)
                continue
            waiting = replace(waiting, attempts=waiting.attempts + 1)
            due_at = self.database.now(plan.next_look)
            self._update(connection, waiting, attempts=waiting.attempts, due_at=due_at)
            claimed.append(waiting)
        return claimed, dead

    def has_due(self, connection: Connection, consumers: Sequence[str], moment: datetime | None = None) -> bool:
        """Whether an attempt for these consumers is due and not claimed, and was so at a moment of that clock."""
        # Of a clock that is moved by hand the moment may lie ahead, by as long as a statement is on its way.
        due = sa.select(_waiting.id).where(_waiting.consumer.in_(consumers), _waiting.due_at <= self.database.now())
        if moment is not None:
            due = due.where(_waiting.due_at <= moment)
        return connection.execute(due.limit(1)).first() is not None

    def until_due(self, connection: Connection, consumers: Sequence[str], within: timedelta) -> timedelta | None:
        """Say how long until an attempt is due; zero or less: one is due now. None: not within that time."""
        seconds = self.database.seconds
        given = {"consumers": list(consumers), "now": seconds(), "within": seconds(within)}
        found = connection.execute(_NEXT, given).first()
        return None if found is None else found.due_at - found.now

    def begin(self, connection: Connection, waiting: WaitingEntry, limit: timedelta | None) -> Standing | None:
        """Open the handler's transaction: take the row out, which locks it, and claim the message.

        ``limit`` is how long the handler may take. Gives what makes it wrong to run the handler, otherwise None: the
        effect is committed already (the row is taken out all the same), or another attempt has been made since.
        """
        fence = _waiting.attempts == waiting.attempts
        gone = sa.delete(inbox_waiting_table).where(_waiting.id == waiting.id, fence)
        if self.database.execute_beside(connection, gone).rowcount != 1:
            return Standing.STORED
        entry = waiting.entry
        first = self.lanes.claims.claim(connection, entry.consumer, entry.message.id, entry.fingerprint, limit)
        self.lanes.promote(connection, entry)
        return None if first else Standing.DUPLICATE

    def postpone(
        self, connection: Connection, waiting: WaitingEntry, again: Again, *, error: str, on_failure: OnFailure
    ) -> bool:
        """Set the next due time after a failure; says whether the attempt was still the latest."""
        if not self._fence(connection, waiting):
            return False
        attempts, due_at = waiting.attempts - (not again.counts), self.database.now(again.after)
        self._update(connection, waiting, attempts=attempts, due_at=due_at, error=scrub(error))
        if on_failure is OnFailure.SKIP and waiting.state != State.SKIPPED:
            entry = waiting.entry
            lane = solitary_lane(entry.message.topic, entry.message.id)
            self._update(connection, waiting, state=State.SKIPPED, lane=lane)
            self.lanes.promote(connection, entry)
        return True

    def give_back(self, connection: Connection, waiting: WaitingEntry) -> None:
        """Undo the claim of an attempt that could not begin: it is due now, and no attempt is used up."""
        if self._fence(connection, waiting):
            self._update(connection, waiting, attempts=waiting.attempts - 1, due_at=self.database.now())

    def bury(
        self, connection: Connection, waiting: WaitingEntry, *, reason: str, error: str, on_failure: OnFailure
    ) -> bool:
        """Make a dead letter and let the lane go on, or park it; says whether the attempt was still the latest."""
        if not self._fence(connection, waiting):
            return False
        self._end(connection, waiting, (reason, error), on_failure)
        return True

    def _end(
        self, connection: Connection, waiting: WaitingEntry, cause: tuple[str, str], on_failure: OnFailure
    ) -> None:
        entry, (reason, error) = waiting.entry, cause
        self.lanes.bury(connection, entry, attempts=waiting.attempts, reason=reason, error=error)
        if on_failure is OnFailure.PARK and waiting.state != State.SKIPPED:
            self._update(connection, waiting, state=State.PARKED, due_at=None, error=scrub(error))
            return
        connection.execute(sa.delete(inbox_waiting_table).where(_waiting.id == waiting.id))
        self.lanes.promote(connection, entry)

    def _fence(self, connection: Connection, waiting: WaitingEntry) -> bool:
        fence = (_waiting.id == waiting.id, _waiting.attempts == waiting.attempts)
        query = sa.select(_waiting.id).where(*fence).with_for_update()
        return connection.execute(query).first() is not None

    def _update(self, connection: Connection, waiting: WaitingEntry, **values: object) -> None:
        connection.execute(sa.update(inbox_waiting_table).where(_waiting.id == waiting.id).values(**values))
