"""What was decided about a branch, for the participant that has reserved for it and has heard nothing since."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.tcc.barrier import Request
from txpatterns.tcc.claims import Branch, Held
from txpatterns.tcc.schema import Operation, State, Status, tcc_audit_table
from txpatterns.tcc.serving import Asking
from txpatterns.tcc.store import TccStore


class Decided(StrEnum):
    """What becomes of a branch. CONFIRM and CANCEL are final."""

    CONFIRM = "confirm"
    CANCEL = "cancel"
    OPEN = "open"
    """Nothing is decided: it is asked for again."""
    UNKNOWN = "unknown"
    """Nobody there has heard of it, or a person has ended it by hand: only a person can say."""


@dataclass(frozen=True, slots=True)
class Told:
    """What whoever runs a transaction says of one of its branches."""

    decided: Decided
    asking: Asking | None = None
    """Where it is to be confirmed or cancelled: the request, as it is sent for that."""


class Decisions(Protocol):
    """Where an application elsewhere says what it has decided."""

    async def about(self, xid: str, branch: str) -> Told:
        """Ask for a branch.

        Raises:
            ConnectionError: there is no answer now.
            TccError: the answer is none, or not from there.
        """


def told_of(connection: Connection, store: TccStore, app: str, xid: str, branch: str) -> Told:
    """Say what becomes of a branch of a transaction of ours.

    The transaction is read before the branch: behind the decision no answer of a try is noted any more.
    """
    begun_by, _, its_id = xid.partition("/")
    held = store.find(connection, app, its_id) if begun_by == app else None
    found = None if held is None else store.branch(connection, xid, branch)
    if held is None or found is None or _is_by_hand(connection, held, branch):
        return Told(Decided.UNKNOWN)
    if held.status == Status.TRYING:
        return Told(Decided.OPEN)
    operation = _asked(held, found)
    instance = held.instance
    request = Request(xid, branch, operation, found.participant, instance.expires_at)
    asking = Asking(request, found.args, instance.started_at, instance.correlation_id, found.attempts + 1, found.result)
    return Told(Decided(operation.value), asking)


def _asked(held: Held, branch: Branch) -> Operation:
    """Say how it ends, whether that was done or not. What nobody knows to be reserved is cancelled in either case."""
    confirms = held.status in (Status.CONFIRMING, Status.CONFIRMED)
    return Operation.CONFIRM if confirms and branch.state in (State.TRIED, State.CONFIRMED) else Operation.CANCEL


def _is_by_hand(connection: Connection, held: Held, branch: str) -> bool:
    """Whether an operator has said that it is done: to do it again could be to do it twice."""
    audit = tcc_audit_table.c
    deed = sa.select(audit.id).where(audit.tcc == held.number, audit.branch == branch).limit(1)
    return connection.execute(deed).first() is not None
