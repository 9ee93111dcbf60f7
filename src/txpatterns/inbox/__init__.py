"""The transactional inbox: what arrives again has no second effect, and what fails is tried again in order."""

from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.handlers import Handler, Handlers, On, OnBatch
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.schema import State, inbox_table, inbox_waiting_table
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.inbox.signatures import AnyHandler
from txpatterns.inbox.transaction import BatchTransaction, SyncBatchTransaction, SyncTransaction, Transaction
from txpatterns.outbox.emitting import Emitter

__all__ = [
    "AnyHandler",
    "BatchTransaction",
    "Consumer",
    "ConsumerSettings",
    "Emitter",
    "Handler",
    "Handlers",
    "Inbox",
    "On",
    "OnBatch",
    "State",
    "SyncBatchTransaction",
    "SyncTransaction",
    "Transaction",
    "inbox_table",
    "inbox_waiting_table",
]
