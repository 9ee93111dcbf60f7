"""Change a database and tell the rest of the world, with nothing lost and nothing done twice."""

# The application, and its parts for use without it
from txpatterns.app import App

# Brokers in this process; others are named by URL
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database import Database, attach

# What is raised, and what a handler raises to steer its delivery
from txpatterns.errors import Reject, Retry, TxPatternsError
from txpatterns.hooks import Hooks
from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.inbox import Inbox
from txpatterns.inbox.transaction import BatchTransaction, SyncTransaction, Transaction

# What is sent
from txpatterns.messages import BigInt, Event, Message, new_id
from txpatterns.outbox import Outbox, Relay

# What happens to failures
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.settings import AppSettings

__version__ = "0.1.0"
__all__ = [
    "App",
    "AppSettings",
    "BatchTransaction",
    "BigInt",
    "Consumer",
    "Database",
    "Event",
    "FailurePolicies",
    "FailurePolicy",
    "Hooks",
    "Inbox",
    "MemoryBroker",
    "Message",
    "OnFailure",
    "Outbox",
    "Reject",
    "Relay",
    "Retry",
    "RetryLadder",
    "SyncTransaction",
    "Transaction",
    "TxPatternsError",
    "__version__",
    "attach",
    "new_id",
]
