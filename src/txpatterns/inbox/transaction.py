"""What a handler is given beside its event: the transaction that its effect commits with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.correlation import lineage_of
from txpatterns.errors import ConfigurationError
from txpatterns.messages import Event, Message, derived_id, milliseconds_of
from txpatterns.outbox.emitting import Emitter, EmittingTransaction, OpenTransaction, S


class _HandlerTransaction(EmittingTransaction[S]):
    """The session, the message, and what the handler sends."""

    def __init__(self, session: S, message: Message, consumer: str, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self.message = message
        """The message that is handled."""
        self.consumer = consumer

    def _id_of(self, number: int) -> str:
        return _emitted_id(self.consumer, self.message, number)

    def _lineage(self) -> Mapping[str, str]:
        return lineage_of(self.message)


class _BatchTransaction(OpenTransaction[S]):
    """The session, the messages of a batch, and what the handler sends."""

    def __init__(self, session: S, messages: Sequence[Message], consumer: str, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self.messages = tuple(messages)
        """The messages that are handled, in the order of the events."""
        self.consumer = consumer
        self._emitted = Counter[str]()

    def emit(self, event: Event, *, cause: Message, deliver_after: timedelta | None = None) -> str:
        """Send an event if, and only if, this batch's transaction commits; gives the message id.

        ``cause`` is the one of ``messages`` that it comes from. The id is derived from the consumer, that message and
        how many came from it before; it carries that message's correlation id, and its id as the cause.

        Raises:
            AddRefused: the event cannot be stored as it is.
            ConfigurationError: there is no outbox, the handler has ended, or the cause is not in this batch.
        """
        outbox = self._outbox()
        if not any(cause is message for message in self.messages):
            raise ConfigurationError(
                "The cause of an emitted event is none of this batch's messages.",
                fix="Write, for example: for event, message in zip(events, tx.messages): tx.emit(…, cause=message).",
            )
        message_id = _emitted_id(self.consumer, cause, self._emitted[cause.id])
        self._emitted[cause.id] += 1
        headers = lineage_of(cause)
        return outbox.add(self.session, event, headers=headers, deliver_after=deliver_after, message_id=message_id)


class Transaction(_HandlerTransaction[AsyncSession]):
    """For ``async def`` handlers: ``session`` commits together with the record that the message was handled."""


class SyncTransaction(_HandlerTransaction[Session]):
    """For ``def`` handlers, which run in a thread: the same with a plain ``Session``."""


class BatchTransaction(_BatchTransaction[AsyncSession]):
    """For ``async def`` handlers of batches: ``session`` commits together with the record that all were handled.

    ``messages`` are those of the events, in the same order.
    """


class SyncBatchTransaction(_BatchTransaction[Session]):
    """For ``def`` handlers of batches, which run in a thread: the same with a plain ``Session``."""


def _emitted_id(consumer: str, cause: Message, number: int) -> str:
    return derived_id(consumer, cause.id, str(number), milliseconds_of(cause.id))
