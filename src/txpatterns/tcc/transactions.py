"""What a participant is given: the transaction that its part commits with, or what tells its calls outside apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.correlation import CORRELATION_ID, lineage_from
from txpatterns.messages import derived_id
from txpatterns.outbox.emitting import Emitter, EmittingTransaction, S
from txpatterns.tcc.schema import Operation

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Instance:
    """One transaction, as those know it who work for it."""

    app: str
    id: str
    started_at: datetime
    expires_at: datetime
    headers: Mapping[str, str]

    @property
    def xid(self) -> str:
        """What tells it from all others, of other applications too."""
        return f"{self.app}/{self.id}"

    @property
    def correlation_id(self) -> str:
        """What joins all that belongs to its story."""
        return self.headers.get(CORRELATION_ID) or self.id


@dataclass(frozen=True, slots=True)
class Asked:
    """What a participant is asked for, in which branch of which transaction, for the how manieth time."""

    instance: Instance
    branch: str
    operation: Operation
    attempt: int
    result: Any = None
    """What its try has returned, where it is asked to confirm or to cancel that."""

    @property
    def reservation(self) -> str:
        """What tells this branch from all others."""
        return f"{self.instance.xid}/{self.branch}"

    @property
    def key(self) -> str:
        """What tells this request from all others, and is the same in each of its attempts."""
        return f"{self.reservation}/{self.operation}"


class _BranchTransaction(EmittingTransaction[S]):
    """The session, which branch it is for, and what the participant sends."""

    def __init__(self, session: S, asked: Asked, emitter: Emitter | None) -> None:
        super().__init__(session, emitter)
        self._asked = asked
        self.transaction_id = asked.instance.id
        """The id that the transaction was begun with."""
        self.reservation = asked.reservation
        """Tells this branch from all others: the same when it is tried, and confirmed or cancelled."""
        self.key = asked.key
        """Tells this request from all others, and is the same in each of its attempts."""
        self.attempt = asked.attempt
        """The first is 1."""
        self.result = asked.result
        """When it is confirmed or cancelled: what its try has returned."""

    def _id_of(self, number: int) -> str:
        instance, path = self._asked.instance, f"{self._asked.branch}/{self._asked.operation}/{number}"
        return derived_id(f"tcc:{instance.app}", instance.id, path, (instance.started_at - _EPOCH) // _MILLISECOND)

    def _lineage(self) -> Mapping[str, str]:
        instance = self._asked.instance
        return lineage_from(instance.correlation_id, instance.id)


class BranchTransaction(_BranchTransaction[AsyncSession]):
    """For ``async def`` participants: what ``session`` writes commits together with the note that it is done: once."""


class SyncBranchTransaction(_BranchTransaction[Session]):
    """For ``def`` participants, which run in a thread: the same with a plain ``Session``."""


@dataclass(frozen=True, slots=True)
class BranchCall:
    """For participants outside of our database: what tells their calls apart. Each may be made more than once."""

    transaction_id: str
    """The id that the transaction was begun with."""
    reservation: str
    """Tells this branch from all others: the same when it is tried, and confirmed or cancelled."""
    key: str
    """The idempotency key of this call: the same in each of its attempts, another one for each of the three."""
    attempt: int
    """The first is 1."""
    expires_at: datetime
    """When the transaction is cancelled, unless it is decided before. A try that comes later must be refused."""
    started_at: datetime
    result: Any = None
    """When it is confirmed or cancelled: what its try has returned; None where nobody knows."""


def call_of(asked: Asked) -> BranchCall:
    """Give what a participant outside is told."""
    instance = asked.instance
    return BranchCall(
        instance.id,
        asked.reservation,
        asked.key,
        asked.attempt,
        instance.expires_at,
        instance.started_at,
        asked.result,
    )
