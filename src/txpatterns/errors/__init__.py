"""Every error that the library raises, in one tree.

    TxPatternsError
    ├── ConfigurationError           wrong use, found at import or at start-up
    │   ├── EventDefinitionError
    │   ├── HandlerDefinitionError
    │   ├── SagaDefinitionError
    │   ├── TccDefinitionError
    │   ├── MissingExtra
    │   ├── UnsafeSettings
    │   ├── WebhookSecretInvalid
    │   ├── PrincipalMissing         a request with a key, and nobody says whose
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
    │   ├── SagaFailed               what who waits for a saga is told of one that did not complete
    │   ├── UnknownSaga              what who waits for a saga is told where there is none
    │   ├── NotCommitted             the same, where the transaction that starts it has not committed
    │   └── SagaKept                 a saga that cannot go the way that an operator asked for
    ├── IdsError                     of ids
    │   ├── IdsUnavailable           no id can be made now that is certain to be the only one
    │   ├── ClockWrong               this machine's clock is not that of the store of worker numbers
    │   ├── WorkersExhausted         all worker numbers are taken
    │   ├── IdInvalid                what is no id of ours
    │   ├── CodesExhausted           no code of a pool is free
    │   └── CodeNotHeld              a code that is given back by who does not have it
    ├── TccError                     of TCC transactions
    │   ├── TccValueRefused          a value that would not come back as it is
    │   ├── TccCancelled             what comes too late to a transaction
    │   ├── TccUndecided             what who runs a transaction is told while the database is away
    │   ├── TccOver                  a try outside of its block
    │   └── TccKept                  a transaction that cannot go the way that an operator asked for
    ├── StockError                   of stock
    │   ├── StockInputInvalid        no item, quantity, id or time that it can take
    │   ├── UnknownItem              an item that it has never heard of
    │   ├── OutOfStock               too little of an item
    │   ├── ReservationReused        an id that stands for other lines
    │   ├── ReservationEnded         sold, released or refused already
    │   ├── UnknownReservation       a confirmation of what was never reserved
    │   ├── ReservationExpired       a reservation that arrived after its time
    │   └── StockUnavailable         its Redis is away, or being rebuilt
    ├── NotBegun                     what a call raises that was not made
    │   ├── CircuitOpen              whoever is called is taken to be away
    │   ├── BulkheadFull             as many calls run as may run at the same time
    │   └── RateLimited              there were more calls than may be in that time
    ├── RequestRefused               of HTTP: each with the status that says so
    │   ├── KeyMissing
    │   ├── KeyInvalid
    │   ├── KeyReused                an Idempotency-Key that came with another request
    │   ├── KeyInUse                 the first request with this key is not answered yet
    │   ├── WebhookRefused           not signed, not fresh, or not for us: always the same words
    │   ├── WebhookUnreadable
    │   └── BodyTooLarge
    ├── AnswerNotKept                an answer that a repeat could not be given
    ├── TurnLost                     a request whose key another one has taken over
    ├── LetterKept                   a dead letter that cannot go the way that an operator asked for
    └── HandlerSignal                what a handler may raise to steer its delivery
        ├── Retry
        └── Reject

Each class has a code (``TXP-1042``); its docstring is the default message, and ``fix`` says what to do.
"""

from __future__ import annotations

from txpatterns.errors.base import (
    TxPatternsError,
)
from txpatterns.errors.handling import (
    HandlerSignal,
    HandlerTimeout,
    IdReused,
    LeaseLost,
    LetterKept,
    Reject,
    Retry,
    SessionOver,
    TransactionEnded,
)
from txpatterns.errors.http import (
    AnswerNotKept,
    BodyTooLarge,
    KeyInUse,
    KeyInvalid,
    KeyMissing,
    KeyReused,
    PrincipalMissing,
    RequestRefused,
    TurnLost,
    WebhookRefused,
    WebhookSecretInvalid,
    WebhookUnreadable,
)
from txpatterns.errors.ids import (
    ClockWrong,
    CodeNotHeld,
    CodesExhausted,
    IdInvalid,
    IdsError,
    IdsUnavailable,
    WorkersExhausted,
)
from txpatterns.errors.messages import (
    AddRefused,
    BrokerError,
    BrokerUnavailable,
    DecodeError,
    NotTransactional,
    PayloadInvalid,
    PayloadTooLarge,
    PublishRejected,
    SavepointsUnsafe,
    UnknownType,
    WrongDatabase,
)
from txpatterns.errors.resilience import (
    BulkheadFull,
    CircuitOpen,
    NotBegun,
    RateLimited,
)
from txpatterns.errors.sagas import (
    NotCommitted,
    SagaDiverged,
    SagaError,
    SagaFailed,
    SagaKept,
    SagaValueRefused,
    StepFailed,
    UnknownSaga,
    WaitTimedOut,
)
from txpatterns.errors.setup import (
    ConfigurationError,
    EventDefinitionError,
    HandlerDefinitionError,
    MissingExtra,
    SagaDefinitionError,
    SchemaError,
    UnsafeSettings,
)
from txpatterns.errors.stock import (
    OutOfStock,
    ReservationEnded,
    ReservationExpired,
    ReservationReused,
    StockError,
    StockInputInvalid,
    StockUnavailable,
    UnknownItem,
    UnknownReservation,
)
from txpatterns.errors.tcc import (
    TccCancelled,
    TccDefinitionError,
    TccError,
    TccKept,
    TccOver,
    TccUndecided,
    TccValueRefused,
)

__all__ = [
    "AddRefused",
    "AnswerNotKept",
    "BodyTooLarge",
    "BrokerError",
    "BrokerUnavailable",
    "BulkheadFull",
    "CircuitOpen",
    "ClockWrong",
    "CodeNotHeld",
    "CodesExhausted",
    "ConfigurationError",
    "DecodeError",
    "EventDefinitionError",
    "HandlerDefinitionError",
    "HandlerSignal",
    "HandlerTimeout",
    "IdInvalid",
    "IdReused",
    "IdsError",
    "IdsUnavailable",
    "KeyInUse",
    "KeyInvalid",
    "KeyMissing",
    "KeyReused",
    "LeaseLost",
    "LetterKept",
    "MissingExtra",
    "NotBegun",
    "NotCommitted",
    "NotTransactional",
    "OutOfStock",
    "PayloadInvalid",
    "PayloadTooLarge",
    "PrincipalMissing",
    "PublishRejected",
    "RateLimited",
    "Reject",
    "RequestRefused",
    "ReservationEnded",
    "ReservationExpired",
    "ReservationReused",
    "Retry",
    "SagaDefinitionError",
    "SagaDiverged",
    "SagaError",
    "SagaFailed",
    "SagaKept",
    "SagaValueRefused",
    "SavepointsUnsafe",
    "SchemaError",
    "SessionOver",
    "StepFailed",
    "StockError",
    "StockInputInvalid",
    "StockUnavailable",
    "TccCancelled",
    "TccDefinitionError",
    "TccError",
    "TccKept",
    "TccOver",
    "TccUndecided",
    "TccValueRefused",
    "TransactionEnded",
    "TurnLost",
    "TxPatternsError",
    "UnknownItem",
    "UnknownReservation",
    "UnknownSaga",
    "UnknownType",
    "UnsafeSettings",
    "WaitTimedOut",
    "WebhookRefused",
    "WebhookSecretInvalid",
    "WebhookUnreadable",
    "WorkersExhausted",
    "WrongDatabase",
]

for _name in __all__:  # journals and tracebacks name an error by where a user finds it
    globals()[_name].__module__ = __name__
