"""What a handler is given beside its event: the transaction that its effect commits with."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.correlation import lineage_of
from txpatterns.messages import Message, derived_id, milliseconds_of
from txpatterns.outbox.emitting import Emitter, EmittingTransaction, S


class _HandlerTransaction(EmittingTransaction[S]):
    """The session, the message, and what the handler sends."""

    def __init__(self, session: S, message: Message, consumer: str, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self.message = message
        self.consumer = consumer

    def _id_of(self, number: int) -> str:
        return derived_id(self.consumer, self.message.id, str(number), milliseconds_of(self.message.id))

    def _lineage(self) -> Mapping[str, str]:
        return lineage_of(self.message)


class Transaction(_HandlerTransaction[AsyncSession]):
    """For ``async def`` handlers: ``session`` commits together with the record that the message was handled."""


class SyncTransaction(_HandlerTransaction[Session]):
    """For ``def`` handlers, which run in a thread: the same with a plain ``Session``."""
