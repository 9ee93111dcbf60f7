"""Errors of wrong use, found at import or at start-up."""

from __future__ import annotations

from txpatterns.errors.base import TxPatternsError


class ConfigurationError(TxPatternsError):
    """The application is not set up correctly."""

    code = "TXP-1001"


class EventDefinitionError(ConfigurationError):
    """An event class is not defined correctly."""

    code = "TXP-1010"
    fix = 'Write: class OrderPlaced(Event, topic="order-events", type="order.placed", key="order_id").'


class HandlerDefinitionError(ConfigurationError):
    """A handler does not fit the event that it is registered for."""

    code = "TXP-1011"
    fix = "A handler takes (event, tx): async def with Transaction, or def with SyncTransaction."


class SagaDefinitionError(ConfigurationError):
    """A saga, or a part of one, is not defined correctly."""

    code = "TXP-1014"
    fix = "A saga is: async def name(saga: SagaContext, ...) -> ...; a step: async def name(tx: StepTransaction, ...)."


class MissingExtra(ConfigurationError):
    """An optional dependency is not installed."""

    code = "TXP-1012"


class UnsafeSettings(ConfigurationError):
    """These settings together could lose or repeat messages."""

    code = "TXP-1013"


class SchemaError(ConfigurationError):
    """The library's tables are missing or older than this version needs."""

    code = "TXP-1020"
    fix = "Run: txp db upgrade"
