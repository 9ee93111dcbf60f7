"""The transactional outbox: what is added to a transaction is published if, and only if, it commits."""

from txpatterns.outbox.outbox import Outbox

__all__ = ["Outbox"]
