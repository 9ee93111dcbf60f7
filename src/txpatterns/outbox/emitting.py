"""What code of the application is given that runs in a transaction of ours: the session, and sending with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.errors import ConfigurationError
from txpatterns.messages import Event

S = TypeVar("S", bound=Session | AsyncSession)


class Emitter(Protocol):
    """Where the code's own messages go: an ``Outbox``."""

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


class OpenTransaction(Generic[S]):
    """The transaction that the code's effect commits with, until the code has ended."""

    def __init__(self, session: S, emitter: Emitter | None) -> None:
        self.session: S = session
        """What you write with it commits together with the note that this is done."""
        self._emitter = emitter
        self._is_open = True

    def close(self) -> None:
        """Refuse what comes after the code's end; called by what runs it."""
        self._is_open = False

    def _outbox(self) -> Emitter:
        """Give where messages go. Raises ConfigurationError where that is nowhere, or the code has ended."""
        if self._emitter is None:
            raise ConfigurationError("There is no outbox to emit to.", fix="Give Consumer an emitter=Outbox(…).")
        if not self._is_open:
            raise ConfigurationError("emit was called after its transaction had ended.", fix="Await all that emits.")
        return self._emitter


class EmittingTransaction(OpenTransaction[S], ABC):
    """The same for code that runs for one thing, and what it sends.

    What runs the code derives from this: it says which ids and headers the messages have.
    """

    def __init__(self, session: S, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self._emitted = 0

    def emit(self, event: Event, *, deliver_after: timedelta | None = None) -> str:
        """Send an event if, and only if, this transaction commits; gives the message id.

        The id is derived from what runs, from what it runs for and from the number of this call. So code that runs
        twice sends the same ids, provided that it emits in the same order. The message carries the correlation id of
        what the code runs for, and its id as the cause.

        Raises:
            AddRefused: the event cannot be stored as it is.
            ConfigurationError: there is no outbox, or the code has ended.
        """
        outbox = self._outbox()
        message_id = self._id_of(self._emitted)
        self._emitted += 1
        return outbox.add(
            self.session, event, headers=self._lineage(), deliver_after=deliver_after, message_id=message_id
        )

    @abstractmethod
    def _id_of(self, number: int) -> str:
        """Make the id of the message with this number: the same each time that the code runs for the same."""

    @abstractmethod
    def _lineage(self) -> Mapping[str, str]:
        """Give the headers that tell what caused a message."""
