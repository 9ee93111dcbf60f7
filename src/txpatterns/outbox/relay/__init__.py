"""The relay: publishes what is committed, at least once and in order per key."""

from txpatterns.outbox.relay.relay import Relay
from txpatterns.outbox.relay.settings import RelaySettings

__all__ = ["Relay", "RelaySettings"]
