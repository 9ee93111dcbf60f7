"""Errors of messages: what outbox and commit refuse, what cannot be read, what adapters of brokers raise."""

from __future__ import annotations

from txpatterns.errors.base import TxPatternsError


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
