"""Queries and actions for operators: one read model, which the command line and others only show."""

from txpatterns.admin.audit import AuditEntry, Deed, read_audit
from txpatterns.admin.deadletters import Reader, drop, find_letter, find_letters, in_order, retry
from txpatterns.admin.depths import DepthsWatch, read_depths
from txpatterns.admin.ids import WorkerEntry, list_workers
from txpatterns.admin.inbox import AtHandlers, InboxEntry, find_at_handlers, list_inbox
from txpatterns.admin.outbox import Found, OutboxEntry, find_message, list_outbox
from txpatterns.admin.saga_check import check_sagas
from txpatterns.admin.saga_code import SagaCode
from txpatterns.admin.saga_deeds import SagaInHand
from txpatterns.admin.sagas import FoundSaga, SagaEntry, find_saga, list_sagas

__all__ = [
    "AtHandlers",
    "AuditEntry",
    "Deed",
    "DepthsWatch",
    "Found",
    "FoundSaga",
    "InboxEntry",
    "OutboxEntry",
    "Reader",
    "SagaCode",
    "SagaEntry",
    "SagaInHand",
    "WorkerEntry",
    "check_sagas",
    "drop",
    "find_at_handlers",
    "find_letter",
    "find_letters",
    "find_message",
    "find_saga",
    "in_order",
    "list_inbox",
    "list_outbox",
    "list_sagas",
    "list_workers",
    "read_audit",
    "read_depths",
    "retry",
]
