"""A handler, what it is called with, and the transaction that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from txpatterns.inbox.handlers import Handler
from txpatterns.inbox.transaction import (
    BatchTransaction,
    SyncBatchTransaction,
    SyncTransaction,
    Transaction,
)
from txpatterns.messages import Event, Message
from txpatterns.outbox.emitting import Emitter

Given = Sequence[tuple[Event, Message]]


class Invocation:
    """A handler with its events and, when it runs, its transaction, which ends for it when it has ended.

    Which events those are is asked when it runs: the opening of its transaction leaves out what was handled.
    """

    def __init__(self, handler: Handler, given: Callable[[], Given], emitter: Emitter | None) -> None:
        self.handler = handler
        self._given = given
        self._emitter = emitter
        self._transaction: Transaction | SyncTransaction | BatchTransaction | SyncBatchTransaction | None = None

    def __call__(self, session: Any) -> Any:
        events = [event for event, _ in self._given()]
        messages = [message for _, message in self._given()]
        handler, emitter = self.handler, self._emitter
        if handler.batch is None:
            single = Transaction if handler.is_async else SyncTransaction
            self._transaction = single(session, messages[0], handler.consumer, emitter)
            return handler.call(events[0], self._transaction)
        several = BatchTransaction if handler.is_async else SyncBatchTransaction
        self._transaction = several(session, messages, handler.consumer, emitter)
        return handler.call(events, self._transaction)

    def over(self) -> None:
        """End the transaction for the handler: what it emits from now on is refused."""
        if self._transaction is not None:
            self._transaction.close()
