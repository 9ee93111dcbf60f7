"""Every error that the library raises, in one tree.

    TxPatternsError
    ├── ConfigurationError           wrong use, found at import or at start-up
    │   ├── EventDefinitionError
    │   ├── HandlerDefinitionError
    │   ├── SagaDefinitionError
    │   ├── MissingExtra
    │   ├── UnsafeSettings
    │   └── SchemaError
    ├── AddRefused                   outbox.add or the commit refuses a message
    │   ├── PayloadInvalid
    │   ├── PayloadTooLarge
    │   ├── NotTransactional
    │   ├── WrongDatabase
    │   └── SavepointsUnsafe
    ├── DecodeError                  bytes that are not what the registry expects
    │   └── UnknownType
    ├── BrokerError                  raised by adapters
    │   ├── BrokerUnavailable
    │   └── PublishRejected
    ├── LeaseLost
    ├── IdReused                     an inbox claim under an id that stands for something else
    ├── TransactionEnded             a handler that committed, rolled back or closed its session
    ├── SessionOver                  what came to a session while its transaction was being committed
    ├── HandlerTimeout               a handler that did not end within its time limit
    ├── SagaError                    of sagas
    │   ├── SagaDiverged             the code does not ask for what its journal has
    │   ├── SagaValueRefused         a value that would not come back from the journal as it is
    │   ├── StepFailed               what a saga's code is told of an operation that failed for good
    │   ├── WaitTimedOut             what a saga's code is told when an event has not come in time
    │   ├── NotBegun                 what a call raises that was not made
    │   ├── SagaFailed               what who waits for a saga is told of one that did not complete
    │   ├── UnknownSaga              what who waits for a saga is told where there is none
    │   ├── NotCommitted             the same, where the transaction that starts it has not committed
    │   └── SagaKept                 a saga that cannot go the way that an operator asked for
    ├── LetterKept                   a dead letter that cannot go the way that an operator asked for
    └── HandlerSignal                what a handler may raise to steer its delivery
        ├── Retry
        └── Reject

Each class has a code (``TXP-1042``); its docstring is the default message, and ``fix`` says what to do.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class TxPatternsError(Exception):
    """Something in txpatterns failed."""

    code: ClassVar[str] = "TXP-1000"
    fix: ClassVar[str] = "See the cause above."

    def __init__(self, message: str | None = None, *, fix: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.remedy = fix or type(self).fix
        super().__init__(f"[{type(self).code}] {self.message} Fix: {self.remedy}")


class ConfigurationError(TxPatternsError):
    """The application is not set up correctly."""

    code = "TXP-1001"


class EventDefinitionError(ConfigurationError):
    """An event class is not defined correctly."""

    code = "TXP-1010"
    fix = 'Write: class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id").'


class HandlerDefinitionError(ConfigurationError):
    """A handler does not fit the event that it is registered for."""

    code = "TXP-1011"
    fix = "A handler takes (event, tx): async def with Transaction, or def with SyncTransaction."


class SagaDefinitionError(ConfigurationError):
    """A saga, or a part of one, is not defined correctly."""

    code = "TXP-1014"
    fix = "A saga is: async def name(saga: SagaContext, ...) -> ...; a step: async def name(tx: StepTransaction, ...)."


class MissingExtra(ConfigurationError):
    """An optional dependency is not installed."""

    code = "TXP-1012"


class UnsafeSettings(ConfigurationError):
    """These settings together could lose or repeat messages."""

    code = "TXP-1013"


class SchemaError(ConfigurationError):
    """The library's tables are missing or older than this version needs."""

    code = "TXP-1020"
    fix = "Run: txp db upgrade"


class AddRefused(TxPatternsError):
    """The message was not added to the outbox."""

    code = "TXP-1100"


class PayloadInvalid(AddRefused):
    """The event cannot be serialised without loss."""

    code = "TXP-1101"
    fix = "Use Decimal for money, BigInt for 64-bit integers and finite numbers."


class PayloadTooLarge(AddRefused):
    """The message is larger than the broker accepts."""

    code = "TXP-1102"
    fix = "Send a reference to the data, or raise max_payload on the Outbox and on the broker."


class NotTransactional(AddRefused):
    """The connection commits each statement by itself, so a message could not be tied to a transaction."""

    code = "TXP-1103"
    fix = "Do not use AUTOCOMMIT for an engine, session or connection that sends or handles messages."


class WrongDatabase(AddRefused):
    """The transaction belongs to another database than the outbox, or to several."""

    code = "TXP-1104"
    fix = "Use a session bound to the outbox's own database, one App for each database."


class SavepointsUnsafe(AddRefused):
    """This SQLite engine does not begin transactions explicitly, so a savepoint could outlive a rollback."""

    code = "TXP-1105"
    fix = (
        "Let App create the engine, or add two listeners: on 'connect' set "
        "dbapi_connection.isolation_level = None, on 'begin' run conn.exec_driver_sql('BEGIN')."
    )


class DecodeError(TxPatternsError):
    """The bytes of a message are not what its type says."""

    code = "TXP-1200"
    fix = "Compare the producer's codec and version with this consumer's."


class UnknownType(DecodeError):
    """No event class is registered for this message type."""

    code = "TXP-1201"
    fix = "Import the module that defines the event before the application starts."


class BrokerError(TxPatternsError):
    """The broker refused or could not be reached."""

    code = "TXP-1300"


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached now; nothing was decided about any message."""

    code = "TXP-1301"
    fix = "Check the broker's address and health; the relay goes on by itself when it is back."


class PublishRejected(BrokerError):
    """The broker will never accept this message."""

    code = "TXP-1302"
    fix = "Read the broker's reason; the message is kept as a dead letter."


class LeaseLost(TxPatternsError):
    """Another process has taken over what this one owned."""

    code = "TXP-1400"
    fix = "Nothing to do: the new owner goes on. Frequent takeovers mean pauses longer than the lease."


class IdReused(TxPatternsError):
    """A message with this id, but with other content, was handled before."""

    code = "TXP-1401"
    fix = "Give each message an id of its own; a repeat must be the same byte for byte."


class TransactionEnded(TxPatternsError):
    """The code ended its transaction by itself, so its effect is not one with the record that it has run."""

    code = "TXP-1402"
    fix = "Leave commit and rollback to the library; what may fail by itself belongs in tx.session.begin_nested()."


class SessionOver(TxPatternsError):
    """This session's transaction is being committed, and takes nothing more: it would be lost."""

    code = "TXP-1403"
    fix = "Await what a handler or a request starts before it ends, or give it a session of its own: app.session()."


class HandlerTimeout(TxPatternsError):
    """The handler did not end within its time limit: it was cancelled, or its transaction was ended."""

    code = "TXP-1404"
    fix = "Give what it waits for a shorter time-out, or the handler more time: on(Event, timeout=...)."


class SagaError(TxPatternsError):
    """Something about a saga."""

    code = "TXP-1600"


class SagaDiverged(SagaError):
    """The saga's code does not ask for what its journal has."""

    code = "TXP-1601"
    fix = "Give the changed code a higher version, and let the old function serve the sagas that run: since=, version=."


class SagaValueRefused(SagaError):
    """A value cannot be kept in a saga's journal."""

    code = "TXP-1602"
    fix = "Annotate it with what it is: a union of the classes that occur, tuples as tuple[...], or a pydantic model."


class StepFailed(SagaError):
    """An operation of a saga has failed for good.

    ``type`` is the class of its error, as ``module:name``, and ``text`` what that said. ``unknown`` says that nobody
    knows whether it has had its effect.
    """

    code = "TXP-1603"
    fix = "Catch it to go another way; what is not caught undoes the saga."

    def __init__(self, type: str, text: str, *, unknown: bool = False) -> None:
        super().__init__(f"{type.rpartition(':')[2]}: {text}")
        self.type = type
        self.text = text
        self.unknown = unknown


class WaitTimedOut(SagaError):
    """What a saga waited for has not come in time."""

    code = "TXP-1606"
    fix = "Catch it to go another way; what is not caught undoes the saga."


class NotBegun(SagaError):
    """A call was not made at all, so it is made later, and that counts for no attempt."""

    code = "TXP-1605"

    def __init__(self, message: str | None = None, *, after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.after = after


class SagaFailed(SagaError):
    """A saga did not complete.

    ``status`` is what it is now, and ``failure`` why, as the journal tells it.
    """

    code = "TXP-1604"
    fix = "Read its journal: what failed is in it, and what was undone."

    def __init__(self, id: str, status: str, failure: str) -> None:
        super().__init__(f"{id} is {status}: {failure}")
        self.id = id
        self.status = status
        self.failure = failure


class UnknownSaga(SagaError):
    """There is no saga with this id."""

    code = "TXP-1610"
    fix = "Wait for the handle that start() gives, when its transaction is committed; ended ones go after `keep_ended`."


class NotCommitted(SagaError):
    """The transaction that starts the saga is not committed."""

    code = "TXP-1611"
    fix = "Wait for its result behind the block that commits it."


class SagaKept(SagaError):
    """The saga stays as it is."""

    code = "TXP-1620"
    fix = "Look at it: txp saga show ID"


class LetterKept(TxPatternsError):
    """The dead letter stays as it is."""

    code = "TXP-1405"
    fix = "Look at it: txp dlq show ID"


class HandlerSignal(TxPatternsError):
    """A handler's wish for its delivery."""

    code = "TXP-1500"

    def __str__(self) -> str:
        """Only what the handler said: a dead letter shows it, and there is nothing to mend."""
        return self.message


class Retry(HandlerSignal):
    """The handler asks for another attempt later."""

    code = "TXP-1501"

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after


class Reject(HandlerSignal):
    """The handler asks to make the message a dead letter now."""

    code = "TXP-1502"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
