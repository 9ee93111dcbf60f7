"""Dead letters that could not be handled: handled again, or let go of, by an operator; in the caller's transaction."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.deadletters.letter import DeadLetter, remove_letter
from txpatterns.inbox.entries import Entry
from txpatterns.inbox.lane_store import First, LaneStore
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.inbox.standing import Standing

_waiting = inbox_waiting_table.c

ID_REUSED, HALF_DONE = "id reused", "half done"
"""The reasons of dead letters whose id stands for something that has had its effect, or still waits for it."""


def handle_again(connection: Connection, lanes: LaneStore, letter: DeadLetter, entry: Entry) -> Standing:
    """Let a dead letter wait for its handler once more, due now and with all its attempts; says what became of it.

    Where its key is parked behind it, it goes before those that wait; otherwise it comes after what waits of its key.
    At any other answer than ``FIRST`` and ``BEHIND`` nothing of it waits, and the caller rolls back what it must.
    """
    remove_letter(connection, letter.id)
    parked = sa.update(inbox_waiting_table).where(*_parked(entry))
    again = parked.values(state=State.RETRYING, attempts=0, due_at=lanes.database.now())
    if connection.execute(again).rowcount == 1:
        return Standing.FIRST
    standing, _row = lanes.admit(connection, entry, First(State.RETRYING, 0, timedelta(0), letter.error))
    return standing


def give_up(connection: Connection, lanes: LaneStore, letter: DeadLetter, entry: Entry) -> None:
    """Take a dead letter out for good, and let the key go on that is parked behind it.

    It counts as handled: should the broker give it out again, nothing happens.
    """
    remove_letter(connection, letter.id)
    if letter.reason == ID_REUSED:
        return  # the claim, and what is parked, belong to the other message
    lanes.claims.claim(connection, entry.consumer, entry.message.id, entry.fingerprint)
    gone = sa.delete(inbox_waiting_table).where(*_parked(entry))
    if connection.execute(gone).rowcount == 1:
        lanes.promote(connection, entry)


def _parked(entry: Entry) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _waiting.consumer == entry.consumer,
        _waiting.message_id == entry.message.id,
        _waiting.state == State.PARKED,
    )
