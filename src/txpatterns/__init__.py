"""Change a database and tell the rest of the world, with nothing lost and nothing done twice."""

from txpatterns.database import Database, attach
from txpatterns.errors import Reject, Retry, TxPatternsError
from txpatterns.messages import BigInt, Event, Message, new_id
from txpatterns.outbox import Outbox
from txpatterns.retries import FailurePolicies, FailurePolicy, OnFailure, RetryLadder

__version__ = "0.1.0"
__all__ = [
    "BigInt",
    "Database",
    "Event",
    "FailurePolicies",
    "FailurePolicy",
    "Message",
    "OnFailure",
    "Outbox",
    "Reject",
    "Retry",
    "RetryLadder",
    "TxPatternsError",
    "__version__",
    "attach",
    "new_id",
]
