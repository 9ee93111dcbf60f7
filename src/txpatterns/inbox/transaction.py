"""What a handler is given beside its event: the transaction that its effect commits with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.errors import ConfigurationError
from txpatterns.hooks import lineage_of
from txpatterns.messages import Event, Message, derived_id

S = TypeVar("S", Session, AsyncSession)


class Emitter(Protocol):
    """Where a handler's own messages go: an ``Outbox``."""

    def add(
        self,
        transaction: Session | AsyncSession,
        /,
        event: Event,
        *,
        headers: Mapping[str, str] | None = None,
        deliver_after: timedelta | None = None,
        message_id: str | None = None,
    ) -> str:
        """Keep an event in a transaction; gives its message id."""


class _HandlerTransaction(Generic[S]):
    """The session, the message, and what the handler sends."""

    def __init__(self, session: S, message: Message, consumer: str, emitter: Emitter | None) -> None:
        self.session: S = session
        self.message = message
        self.consumer = consumer
        self._emitter = emitter
        self._emitted = 0
        self._open = True

    def emit(self, event: Event, *, deliver_after: timedelta | None = None) -> str:
        """Send an event if, and only if, this handler's transaction commits; gives the message id.

        The id is derived from the consumer, the incoming message and the number of this call, so a handler that
        runs twice sends the same ids, provided that it emits in the same order. The message carries the incoming
        one's correlation id, and its id as the cause.

        Raises:
            AddRefused: the event cannot be stored as it is.
            ConfigurationError: there is no outbox, or the handler has ended.
        """
        if self._emitter is None:
            raise ConfigurationError(
                "This consumer has no outbox to emit to.", fix="Give Consumer an emitter=Outbox(…)."
            )
        if not self._open:
            raise ConfigurationError("emit was called after its handler had ended.", fix="Await all that emits.")
        message_id = derived_id(self.consumer, self.message.id, self._emitted)
        self._emitted += 1
        headers = lineage_of(self.message)
        return self._emitter.add(
            self.session, event, headers=headers, deliver_after=deliver_after, message_id=message_id
        )

    def close(self) -> None:
        """Refuse what comes after the handler's end; called by the consumer."""
        self._open = False


class Transaction(_HandlerTransaction[AsyncSession]):
    """For ``async def`` handlers: ``session`` commits together with the record that the message was handled."""


class SyncTransaction(_HandlerTransaction[Session]):
    """For ``def`` handlers, which run in a thread: the same with a plain ``Session``."""
