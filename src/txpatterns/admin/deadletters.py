"""What an operator does with dead letters: find them, retry them, drop them. Each deed is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.admin.audit import Action, Deed, refuse_without_audit, write_down
from txpatterns.coordination import say
from txpatterns.coordination.wakeup import INBOX, OUTBOX
from txpatterns.database import Database
from txpatterns.deadletters.letter import DeadLetter, read_letter, read_letters
from txpatterns.errors import DecodeError, LetterKept
from txpatterns.inbox.entries import Entry, entry_of
from txpatterns.inbox.handlers import Handlers
from txpatterns.inbox.lane_store import LaneStore
from txpatterns.inbox.revival import HALF_DONE, ID_REUSED, give_up, handle_again
from txpatterns.inbox.standing import Standing
from txpatterns.messages import Message, describe
from txpatterns.outbox.revival import let_go, send_again
from txpatterns.serialization import EventRegistry

_TRIES = 100
_BETWEEN = timedelta(milliseconds=50)

_SETTLED = {
    ID_REUSED: (
        "Another message with its id came before, with other content: the two cannot be told apart.",
        "Send it anew under an id of its own, then drop this: txp dlq drop ID --reason TEXT",
    ),
    HALF_DONE: (
        "Its handler committed by itself, so half of its effect is there: handled again, it would have that twice.",
        "Do the rest by hand, then drop it: txp dlq drop ID --reason TEXT",
    ),
}


class _Busy(Exception):
    """The key is being handled at this moment."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What an App knows of its messages: who handles them, and how they are read."""

    handlers: Handlers
    registry: EventRegistry


def find_letter(connection: Connection, letter_id: int) -> tuple[DeadLetter, Message] | None:
    """Find one dead letter with its message."""
    return read_letter(connection, letter_id)


def in_order(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Sort dead letters so that those of one key come in the order of that key."""
    return sorted(letters, key=lambda letter: (letter.consumer or "", letter.position or 0, letter.id))


def find_letters(
    connection: Connection, conditions: Sequence[sa.ColumnElement[bool]] = (), limit: int | None = None
) -> list[DeadLetter]:
    """List dead letters in the order in which they died, without what they carry."""
    return read_letters(connection, list(conditions), limit)


async def retry(database: Database, reader: Reader, letter_id: int, deed: Deed) -> None:
    """Let a dead letter go its way again: to the broker if it could not be published, else to its handler.

    It has all its attempts again. Whatever waits behind it goes on after it. What is done is written down.

    Raises:
        LetterKept: it is gone, or cannot be retried; nothing was changed.
        SchemaError: there is no table to write it down.
    """

    def work(connection: Connection) -> None:
        letter, message = _take(connection, letter_id)
        if letter.consumer is None:
            if not send_again(connection, letter, message, database.now()):
                raise LetterKept("A message with its id is in the outbox already.", fix="See: txp outbox show ID")
        else:
            _to_handlers(connection, LaneStore(database), reader, letter, message)
        _wake(connection, letter)
        write_down(connection, Action.RETRY, deed, letter, database.now())

    await _insist(database, work)


async def drop(database: Database, letter_id: int, deed: Deed) -> None:
    """Give a dead letter up for good; what is parked behind it goes on. What is done is written down.

    Raises:
        LetterKept: it is gone; nothing was changed.
        SchemaError: there is no table to write it down.
    """

    def work(connection: Connection) -> None:
        letter, message = _take(connection, letter_id)
        if letter.consumer is None:
            let_go(connection, letter, message, database.now())
        else:
            give_up(connection, LaneStore(database), letter, entry_of(letter.consumer, message))
        _wake(connection, letter)
        write_down(connection, Action.DROP, deed, letter, database.now())

    await _insist(database, work)


async def _insist(database: Database, work: Callable[[Connection], None]) -> None:
    for _ in range(_TRIES):
        try:
            await database.transact(work)
            return
        except _Busy:
            await database.clock.wait(asyncio.Event(), _BETWEEN)
    raise LetterKept("Its key is being handled all the time.", fix="Try again in a moment.")


def _take(connection: Connection, letter_id: int) -> tuple[DeadLetter, Message]:
    refuse_without_audit(connection)
    found = read_letter(connection, letter_id, lock=True)
    if found is None:
        raise LetterKept(f"There is no dead letter {letter_id} (any more).", fix="See what there is: txp dlq list")
    return found


def _wake(connection: Connection, letter: DeadLetter) -> None:
    """Tell those who go on with it, when the deed is committed."""
    say(connection, OUTBOX if letter.consumer is None else INBOX)


def _to_handlers(
    connection: Connection, lanes: LaneStore, reader: Reader, letter: DeadLetter, message: Message
) -> None:
    if letter.reason in _SETTLED:
        said, fix = _SETTLED[letter.reason]
        raise LetterKept(said, fix=fix)
    entries = _entries(reader, letter, message)
    came = [handle_again(connection, lanes, letter, entry) for entry in entries]
    if Standing.AGAIN in came:
        raise _Busy
    if letter.consumer == reader.handlers.group:
        # Nobody could read it, so it was kept for all handlers; should it come again, it must not be kept once more.
        group = entry_of(letter.consumer, message)
        lanes.claims.claim(connection, group.consumer, message.id, group.fingerprint)
        return
    if came != [Standing.FIRST] and came != [Standing.BEHIND]:
        raise LetterKept(
            f"A message with its id is known to {letter.consumer} already ({came[0]}).", fix=LetterKept.fix
        )


def _entries(reader: Reader, letter: DeadLetter, message: Message) -> list[Entry]:
    """Give the message as each handler that is to have it sees it; read as a delivery from the broker is."""
    try:
        event = reader.registry.read(message)
    except DecodeError as error:
        fix = "Correct the event's class or add an upcaster, then retry; or drop it."
        raise LetterKept(f"It still cannot be read: {error.message}", fix=fix) from error
    type_ = describe(type(event)).type
    message = message._replace(type=type_)
    handlers = reader.handlers
    if letter.consumer == handlers.group:
        consumers = [handler.consumer for handler in handlers.of(type_)]
    else:
        consumers = [handler.consumer for handler in handlers.of(type_) if handler.consumer == letter.consumer]
    if not consumers:
        known = ", ".join(handler.consumer for handler in handlers.of(type_)) or "none"
        raise LetterKept(
            f"This App has no handler {letter.consumer} for {type_} now; it has {known}.",
            fix="Give the handler that name with name=, use the App that it belongs to, or drop the dead letter.",
        )
    return [entry_of(consumer, message) for consumer in consumers]
