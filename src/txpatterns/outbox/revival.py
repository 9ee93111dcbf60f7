"""Dead letters that could not be published: sent again, or let go of, by an operator.

Each function works in its caller's transaction, and locks the lease of the key's bucket first, so that no relay
writes to the same key meanwhile.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import ColumnElement

from txpatterns.coordination.schema import lease_table
from txpatterns.database.dialects import is_sqlite
from txpatterns.deadletters.letter import DeadLetter, has_dead_letter, remove_letter
from txpatterns.messages import Message
from txpatterns.outbox.schema import SCOPE, Waiting, outbox_table, waiting_table
from txpatterns.outbox.writer import values_of
from txpatterns.transport import REPLAY

_waiting = waiting_table.c


def send_again(connection: Connection, letter: DeadLetter, message: Message, now: ColumnElement[datetime]) -> bool:
    """Put a dead letter back among what is to be published; False when its id is there already.

    Where others of its key wait for it, it goes before them; where its key is held up by another message, it waits in
    its old place; otherwise it goes out like a message that is added now. A header numbers its replays, for
    brokers that leave out what they have seen lately.
    """
    _lock(connection, message.bucket)
    for table in (outbox_table, waiting_table):
        there = sa.select(sa.literal(1)).where(table.c.message_id == message.id)
        if connection.execute(there).first() is not None:
            return False
    remove_letter(connection, letter.id)
    message = _replayed(message)
    states = _states(connection, message)
    if Waiting.PARKED in states:
        _unpark(connection, message)
        _add(connection, letter, message, state=Waiting.RETRYING, due_at=now)
    elif states & {Waiting.RETRYING, Waiting.BEHIND}:
        _add(connection, letter, message, state=Waiting.BEHIND)
    else:
        connection.execute(sa.insert(outbox_table).values(**values_of(message)))
    return True


def _replayed(message: Message) -> Message:
    """Give the message with the number of its next replay; it stays with it, should it become a dead letter again."""
    before = message.headers.get(REPLAY, "")
    number = int(before) if before.isascii() and before.isdecimal() else 0
    return message._replace(headers={**message.headers, REPLAY: str(number + 1)})


def let_go(connection: Connection, letter: DeadLetter, message: Message, now: ColumnElement[datetime]) -> None:
    """Take a dead letter out; what is parked behind it goes on, unless another dead letter of the key is left."""
    _lock(connection, message.bucket)
    remove_letter(connection, letter.id)
    if Waiting.PARKED in _states(connection, message) and not has_dead_letter(connection, message.topic, message.key):
        _unpark(connection, message)
        first = sa.select(_waiting.message_id).where(*_lane(message), _waiting.state == Waiting.BEHIND)
        first = first.order_by(_waiting.position).limit(1)
        connection.execute(
            sa.update(waiting_table)
            .where(_waiting.message_id == first.scalar_subquery())
            .values(state=Waiting.RETRYING, attempts=0, due_at=now)
        )


def _lock(connection: Connection, bucket: int) -> None:
    if not is_sqlite(connection):
        lease = sa.select(lease_table.c.slot).where(lease_table.c.scope == SCOPE, lease_table.c.slot == bucket)
        connection.execute(lease.with_for_update())


def _lane(message: Message) -> tuple[sa.ColumnElement[bool], ...]:
    return (_waiting.bucket == message.bucket, _waiting.topic == message.topic, _waiting.key == message.key)


def _states(connection: Connection, message: Message) -> set[str]:
    """Give the states of what waits of the message's key; nothing waits for a message without one."""
    if message.key is None:
        return set()
    return set(connection.execute(sa.select(_waiting.state).where(*_lane(message)).distinct()).scalars())


def _unpark(connection: Connection, message: Message) -> None:
    parked = (*_lane(message), _waiting.state == Waiting.PARKED)
    connection.execute(sa.update(waiting_table).where(*parked).values(state=Waiting.BEHIND))


def _add(connection: Connection, letter: DeadLetter, message: Message, state: Waiting, **place: object) -> None:
    values = {**values_of(message), "position": letter.position, "error": letter.error, "state": state, **place}
    connection.execute(sa.insert(waiting_table).values(attempts=0, **values))
