"""The database as the broker: tables beside the application's own, and nothing else to run."""

from __future__ import annotations

from txpatterns.brokers.database.broker import DatabaseBroker

__all__ = ["DatabaseBroker"]
