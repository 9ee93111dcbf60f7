"""The transactional outbox: what is added to a transaction is published if, and only if, it commits."""

from txpatterns.outbox.outbox import Outbox
from txpatterns.outbox.relay import Relay, RelaySettings

__all__ = ["Outbox", "Relay", "RelaySettings"]
