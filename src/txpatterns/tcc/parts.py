"""One participant's part in a transaction as code that runs: what it is asked for, and how it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.correlation import correlated
from txpatterns.database import Database
from txpatterns.errors import TccDefinitionError, TccError
from txpatterns.execution import Execution, Origin
from txpatterns.hooks import HookList
from txpatterns.inbox.signatures import written_at
from txpatterns.outbox.emitting import Emitter
from txpatterns.tcc.moments import BranchDone, BranchRaised, BranchRuns
from txpatterns.tcc.participants import Participant, Participants
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.settings import TccSettings
from txpatterns.tcc.store import TccStore
from txpatterns.tcc.transactions import Asked, BranchTransaction, SyncBranchTransaction, call_of


@dataclass(frozen=True, slots=True)
class Tools:
    """What all that runs participants shares."""

    database: Database
    store: TccStore
    execution: Execution
    participants: Participants
    outbox: Emitter | None
    hooks: HookList
    settings: TccSettings
    random: Random = field(default_factory=Random)


@dataclass(frozen=True, slots=True)
class Part:
    """One request to one participant."""

    tools: Tools
    participant: Participant[..., Any]
    asked: Asked
    arguments: tuple[Any, ...]

    @property
    def origin(self) -> Origin:
        """Whose code it is, and for what."""
        return origin_of(self.participant, self.asked.operation, self.asked.instance.id)

    async def in_loop(self, session: AsyncSession) -> Any:
        """Call what writes in our database, in the event loop."""
        transaction = BranchTransaction(session, self.asked, self.tools.outbox)
        with self._around():
            try:
                return await self.participant.functions[self.asked.operation](transaction, *self.arguments)
            finally:
                transaction.close()

    def in_thread(self, session: Session) -> Any:
        """Do the same in a thread."""
        transaction = SyncBranchTransaction(session, self.asked, self.tools.outbox)
        with self._around():
            try:
                return self.participant.functions[self.asked.operation](transaction, *self.arguments)
            finally:
                transaction.close()

    async def outside(self) -> Any:
        """Call what asks somebody outside, within its time. Raises what it raises, and TimeoutError."""
        with self._around():
            async with asyncio.timeout(self.tools.settings.call_timeout.total_seconds()):
                return await self.participant.call(call_of(self.asked), self.asked.operation, self.arguments)

    def tell_done(self) -> None:
        """Tell the listeners that what it was asked for is done."""
        asked = self.asked
        self.tools.hooks.tell(BranchDone(self.participant.name, asked.operation, asked.instance.id))

    def tell_raised(self, error: BaseException) -> None:
        """Tell the listeners of an attempt that failed."""
        asked, name = self.asked, self.participant.name
        self.tools.hooks.tell(BranchRaised(name, asked.operation, asked.instance.id, error, asked.attempt))

    @contextmanager
    def _around(self) -> Iterator[None]:
        asked, instance = self.asked, self.asked.instance
        runs = BranchRuns(self.participant.name, asked.operation, instance.id, asked.attempt, instance.headers)
        with correlated(instance.correlation_id), self.tools.hooks.within(runs):
            yield


def origin_of(participant: Participant[..., Any], operation: Operation, transaction_id: str) -> Origin:
    """Say whose code runs, and for what."""
    name = participant.name if operation == Operation.TRY else f"{participant.name} ({operation})"
    place = written_at(participant.functions[operation])
    return Origin(name, f"TCC {transaction_id}", place, misfit=TccDefinitionError, over_limit=TccError)
