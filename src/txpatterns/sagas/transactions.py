"""What the action of a step is given: the transaction that its effect commits with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.correlation import lineage_from
from txpatterns.messages import derived_id
from txpatterns.outbox.emitting import Emitter, EmittingTransaction, S
from txpatterns.tcc.transactions import Asked, BranchTransaction, SyncBranchTransaction

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Instance:
    """One saga, as those know it who work for it."""

    type: str
    id: str
    started_at: datetime
    correlation_id: str
    run: int = 1

    def message_id(self, path: str) -> str:
        """Make the id of a message that is sent at a place of this saga: the same each time."""
        return derived_id(f"saga:{self.type}", self.id, path, (self.started_at - _EPOCH) // _MILLISECOND)

    def lineage(self) -> Mapping[str, str]:
        """Give the headers of what this saga sends."""
        return lineage_from(self.correlation_id, self.id)


class _StepTransaction(EmittingTransaction[S]):
    """The session, which saga it is for, and what the step sends."""

    def __init__(self, session: S, instance: Instance, place: str, attempt: int, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self._instance = instance
        self._place = place
        self.saga_id = instance.id
        """The saga's id."""
        self.key = f"{instance.type}/{instance.id}/{place}"
        """Tells this step from all others, and is the same in each of its attempts."""
        self.attempt = attempt
        """The first is 1."""

    def _id_of(self, number: int) -> str:
        return self._instance.message_id(f"{self._place}/{number}")

    def _lineage(self) -> Mapping[str, str]:
        return self._instance.lineage()


class StepTransaction(_StepTransaction[AsyncSession]):
    """For ``async def`` steps: ``session`` commits together with the fact that the step is done, so it is done once."""


class SyncStepTransaction(_StepTransaction[Session]):
    """For ``def`` steps, which run in a thread: the same with a plain ``Session``."""


@overload
def in_branch(transaction: StepTransaction, asked: Asked) -> BranchTransaction: ...
@overload
def in_branch(transaction: SyncStepTransaction, asked: Asked) -> SyncBranchTransaction: ...
def in_branch(
    transaction: StepTransaction | SyncStepTransaction, asked: Asked
) -> BranchTransaction | SyncBranchTransaction:
    """Give the same transaction to a participant of TCC."""
    emitter = transaction._emitter  # noqa: SLF001 - a participant sends as the step does
    if isinstance(transaction, StepTransaction):
        return BranchTransaction(transaction.session, asked, emitter)
    return SyncBranchTransaction(transaction.session, asked, emitter)
