"""Queries and actions for operators: one read model, which the command line and others only show."""

from txpatterns.admin.outbox import Found, OutboxEntry, find_message, list_outbox

__all__ = ["Found", "OutboxEntry", "find_message", "list_outbox"]
