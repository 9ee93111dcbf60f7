"""Queries and actions for operators: one read model, which the command line and others only show."""

from txpatterns.admin.depths import DepthsWatch, read_depths
from txpatterns.admin.outbox import Found, OutboxEntry, find_message, list_outbox

__all__ = ["DepthsWatch", "Found", "OutboxEntry", "find_message", "list_outbox", "read_depths"]
