"""The part of the outbox that is called in the user's transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from txpatterns.database import deferred
from txpatterns.database.database import Database
from txpatterns.database.deferred import AnyTransaction, Entry, Kind, Writer
from txpatterns.database.dialects import moment
from txpatterns.database.engines import refuse_autocommit, sync_side
from txpatterns.database.identity import Identity
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import AddRefused, PayloadTooLarge
from txpatterns.hooks import HookList, Hooks
from txpatterns.messages import LONGEST_KEY, NO_DELAY, Event, Message, describe, new_id
from txpatterns.outbox.moments import Added
from txpatterns.outbox.schema import Waiting, waiting_table
from txpatterns.outbox.writer import values_of, write_rows
from txpatterns.retries import LONGEST_WAIT
from txpatterns.serialization.registry import EventRegistry
from txpatterns.transport import ORDER, UNORDERED

_HEADER_LIMIT = 16_384
_LARGEST_BESIDE = 4 * _HEADER_LIMIT + LONGEST_KEY
"""Bytes of headers and key at most: adding them up takes longer than to see that a small payload leaves the room."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_ID = re.compile(r"[!-~]{1,64}")


class _Added(NamedTuple):
    """A message that its transaction's commit is to write."""

    message: Message
    delay: timedelta | None
    strict: bool


class Outbox:
    """Adds messages to a transaction: they are published if, and only if, it commits.

    ``max_payload`` is the smallest limit of the brokers that the messages go to, in bytes. ``ordered`` says whether
    they keep the order of a key: where they do not, an event with ``order="strict"`` is refused.
    """

    def __init__(
        self,
        database: Database,
        registry: EventRegistry | None = None,
        *,
        hooks: HookList | Hooks | None = None,
        max_payload: int = 1_000_000,
        ordered: bool = True,
        on_commit: Callable[[], None] | None = None,
    ) -> None:
        self.database = database
        self.registry = registry or EventRegistry()
        self.hooks = HookList.of(hooks)
        self.max_payload = max_payload
        self.ordered = ordered
        self.on_commit: Callable[[], None] = on_commit or (lambda: None)
        self.identity = Identity(database)
        self._writer = Writer(Kind.MESSAGES, self.identity, self._write, self._committed)
        deferred.watch(sync_side(database.engine))

    def add(
        self,
        transaction: AnyTransaction,
        event: Event,
        *,
        headers: Mapping[str, str] | None = None,
        deliver_after: timedelta | None = None,
        message_id: str | None = None,
    ) -> str:
        """Send an event with this transaction; gives the message's id.

        Does no I/O: the row is written at the commit, together with all others of the transaction, and a rolled
        back savepoint takes its messages along. Serialising, reading back and sizing happen here, so that what is
        stored can be sent, and comes out equal; later changes of the event's contents change nothing.

        ``deliver_after`` keeps the message back for at least so long after the commit; until then it can be
        cancelled, and it is outside the order of its key. ``message_id`` is for an id of your own; while a message
        waits, another with its id is the same one: the commit is refused, or where either is scheduled, one is sent.

        Raises:
            AddRefused: an argument is none that can be sent, or be sent with; or its order would not be kept.
            PayloadInvalid: it cannot be written as JSON without loss, or would be read as another.
            PayloadTooLarge: with its headers it is above ``max_payload``.
            NotTransactional, WrongDatabase, SavepointsUnsafe: here or at the commit; nothing is committed then.
        """
        if not isinstance(event, Event):
            raise AddRefused(
                f"An object of type {type(event).__name__} is no event.",
                fix="Give an instance of a class that derives from Event.",
            )
        if deliver_after is not None and not NO_DELAY <= deliver_after <= LONGEST_WAIT:
            raise AddRefused(
                "deliver_after is negative, or above a hundred years.", fix="Give a timedelta of zero or more."
            )
        message = self._message(event, _allowed(message_id) if message_id else new_id(), headers or {})
        strict = describe(type(event)).order == "strict"
        if strict and not self.ordered:
            raise AddRefused(f"{type(event).__name__} {UNORDERED}", fix=ORDER)
        entry = Entry(self._writer, message.id, _Added(message, deliver_after, strict))
        deferred.add(deferred.plain(transaction), entry)
        self.hooks.tell(Added(message))
        return message.id

    def cancel(self, transaction: Session | Connection, message_id: str) -> bool:
        """Take back a message that waits for its ``deliver_after``, in this transaction.

        True: it will not be sent if this transaction commits; a rolled back savepoint undoes a cancellation, too.
        False: it was sent, is being sent, or never was.

        Raises:
            AddRefused: this is neither a session nor a connection.
            NotTransactional: the connection has not begun a transaction, or commits each statement by itself.
            WrongDatabase: the transaction is in another database than the outbox.
        """
        match transaction:
            case Session():
                connection = writing_connection(transaction)
            case Connection():
                connection = transaction
            case _:
                raise deferred.no_transaction(
                    transaction, fix="Give a Session or a Connection; to others: await acancel."
                )
        if deferred.cancel(connection, Kind.MESSAGES, message_id):
            return True
        refuse_autocommit(connection)
        self.identity.check(connection)
        scheduled = (waiting_table.c.message_id == message_id, waiting_table.c.state == Waiting.SCHEDULED)
        delete = sa.delete(waiting_table).where(*scheduled)
        return self.database.execute_beside(connection, delete).rowcount == 1

    async def acancel(self, transaction: AsyncSession | AsyncConnection, message_id: str) -> bool:
        """The same for an ``AsyncSession`` or ``AsyncConnection``."""
        match transaction:
            case AsyncSession() | AsyncConnection(sync_connection=Connection()):
                return await transaction.run_sync(self.cancel, message_id)
            case _:
                raise deferred.no_transaction(
                    transaction, fix="Give an AsyncSession or open AsyncConnection; others: cancel."
                )

    def pending(self, transaction: AnyTransaction) -> list[Message]:
        """Give the messages that were added to this session or connection and not written yet, in order: for tests.

        Of a connection also those of the sessions on it. AddRefused for other objects, as with ``add``.
        """
        return [added.message for added in deferred.pending(deferred.plain(transaction), Kind.MESSAGES)]

    def _message(self, event: Event, message_id: str, headers: Mapping[str, str]) -> Message:
        spec, now = self.registry.register(type(event)), self.database.clock.now()
        key = event.key_of()
        if key is not None and not (key.isascii() and key.isprintable()) and _UNSTORABLE.search(key):
            raise AddRefused(f"The key of {spec.type} holds characters that cannot be stored.", fix="Use plain text.")
        if key is not None and len(key) * 4 > LONGEST_KEY and len(key.encode()) > LONGEST_KEY:
            raise AddRefused(
                f"The key of {spec.type} has {len(key.encode())} bytes; the limit is {LONGEST_KEY}.",
                fix="Take a shorter key: an id, or a digest of what is so long.",
            )
        encoded = self.registry.encode(event, message_id, now)
        given = {**self.hooks.headers(), **headers, **encoded.headers}
        checked, payload, kind = _checked(given) if given else {}, encoded.payload, encoded.content_type
        message = Message(message_id, spec.topic, spec.type, payload, key, checked, kind, now)
        if len(payload) + _LARGEST_BESIDE > self.max_payload and message.size > self.max_payload:
            raise PayloadTooLarge(f"{spec.type} has {message.size} bytes; the limit is {self.max_payload}.")
        self.registry.read_back(event, message)
        return message

    def _committed(self, _added: Sequence[_Added]) -> None:
        self.on_commit()

    def _write(self, connection: Connection, added: Sequence[_Added]) -> None:
        """Write a transaction's messages, as the last thing before its COMMIT."""
        strict = sorted({f"{one.message.topic}\x1f{one.message.key}" for one in added if one.strict})
        if strict and connection.dialect.name == "postgresql":
            _lock_keys(connection, strict)
        now = [one.message for one in added if one.delay is None]
        if now:
            write_rows(connection, now, self.database)
        later = [one for one in added if one.delay is not None]
        if later:
            self._schedule(connection, later)

    def _schedule(self, connection: Connection, added: Sequence[_Added]) -> None:
        seconds = self.database.seconds
        rows = [{**values_of(one.message), "seconds": seconds(one.delay or NO_DELAY)} for one in added]
        insert = sa.insert(waiting_table).inline().values(state=Waiting.SCHEDULED, due_at=moment("seconds"))
        self.database.execute_beside(connection, insert, rows)


def _allowed(message_id: str) -> str:
    if not _ID.fullmatch(message_id):
        raise AddRefused(
            f"Message id {message_id[:40]!r} is not allowed.", fix="Use 1 to 64 printable ASCII characters."
        )
    return message_id


def _lock_keys(connection: Connection, keys: Sequence[str]) -> None:
    """Lock strict keys until the transaction ends, always in one order, before any position is drawn."""
    query = sa.text(
        "SELECT count(pg_advisory_xact_lock(hashtextextended(key, 7429))) "
        "FROM (SELECT key FROM unnest(CAST(:keys AS text[])) AS key ORDER BY key) AS ordered"
    ).bindparams(sa.bindparam("keys", list(keys), sa.ARRAY(sa.Text)))
    connection.execute(query)


def _checked(headers: Mapping[str, object]) -> dict[str, str]:
    """Refuse headers that a broker or a bridge could misread."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not name.isascii() or not name.isprintable() or not name or " " in name or name.startswith("txp-"):
            raise AddRefused(f"Header name {name[:40]!r} is not allowed.", fix="Use ASCII names without spaces.")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise AddRefused(f"Header {name} holds a control character or is no text.", fix="Use plain text.")
        checked[name] = value
    if sum(len(n) + len(v) for n, v in checked.items()) > _HEADER_LIMIT:
        raise AddRefused(f"The headers have more than {_HEADER_LIMIT} characters.", fix="Put data in the event.")
    return checked
