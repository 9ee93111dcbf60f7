"""Queries and actions for operators: one read model, which the command line and others only show."""

from txpatterns.admin.audit import AuditEntry, Deed, read_audit
from txpatterns.admin.deadletters import Reader, drop, find_letter, find_letters, in_order, retry
from txpatterns.admin.depths import DepthsWatch, read_depths
from txpatterns.admin.inbox import AtHandlers, InboxEntry, find_at_handlers, list_inbox
from txpatterns.admin.outbox import Found, OutboxEntry, find_message, list_outbox

__all__ = [
    "AtHandlers",
    "AuditEntry",
    "Deed",
    "DepthsWatch",
    "Found",
    "InboxEntry",
    "OutboxEntry",
    "Reader",
    "drop",
    "find_at_handlers",
    "find_letter",
    "find_letters",
    "find_message",
    "in_order",
    "list_inbox",
    "list_outbox",
    "read_audit",
    "read_depths",
    "retry",
]
