"""Reservations of a saga: what TCC's participants try for it, and are asked to confirm or to cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any, Generic, TypeVar

from txpatterns.correlation import CORRELATION_ID
from txpatterns.retries import RetryLadder
from txpatterns.sagas.calls import Call, Doubt, Undo
from txpatterns.sagas.operations import CallOut, Kind, Operation, Step
from txpatterns.sagas.replay import Replay
from txpatterns.sagas.transactions import Instance, StepTransaction, SyncStepTransaction, in_branch
from txpatterns.sagas.values import digest_of, form_of_result
from txpatterns.tcc import transactions as tcc
from txpatterns.tcc.participants import Mode, Participant, check_whole
from txpatterns.tcc.schema import Operation as Asks

R_co = TypeVar("R_co", covariant=True)

_CALL_TIMEOUT = timedelta(seconds=30)
_OPEN_AT_MOST = timedelta(days=30)
"""Until when a participant outside takes a try of a saga that has no deadline."""


@dataclass(frozen=True, slots=True)
class Reserved(Generic[R_co]):
    """What a participant has reserved for a saga: it is confirmed with ``saga.confirm``, or at the saga's end."""

    result: R_co
    """What it has returned."""
    reservation: str
    """What tells it from all other reservations; the participant has been told it."""
    branch: Branch = field(repr=False, compare=False)
    """What it is confirmed by."""


class Branch:
    """One reservation of a saga. It is also the form of the participant's result, in the journal."""

    def __init__(
        self, participant: Participant[..., Any], arguments: tuple[Any, ...], saga: tcc.Instance, path: str
    ) -> None:
        self.participant = participant
        self.arguments = arguments
        self._saga = saga
        self._path = path
        self.reserved: Reserved[Any] | None = None
        """What the saga's code was given; None: it is not known that anything is reserved."""
        self.is_confirmed = False
        """Whether the code has asked to confirm it."""

    def write(self, value: object) -> tuple[str, object]:
        """Give the JSON of what its try has returned, and what the saga's code is given."""
        text, result = self.participant.result.write(value)
        return text, self._had(result)

    def read(self, text: str) -> object:
        """Give what the saga's code is given."""
        return self._had(self.participant.result.read(text))

    def _had(self, result: object) -> Reserved[Any]:
        self.reserved = Reserved(result, self.asked(Asks.TRY, 1).reservation, self)
        return self.reserved

    def asked(self, operation: Asks, attempt: int) -> tcc.Asked:
        """Give what the participant is asked for."""
        result = None if operation == Asks.TRY or self.reserved is None else self.reserved.result
        return tcc.Asked(self._saga, self._path, operation, attempt, result)

    async def in_loop(self, transaction: StepTransaction, operation: Asks) -> Any:
        """Ask a participant of this database, in a step's transaction."""
        branch = in_branch(transaction, self.asked(operation, transaction.attempt))
        try:
            return await self.participant.functions[operation](branch, *self.arguments)
        finally:
            branch.close()

    def in_thread(self, transaction: SyncStepTransaction, operation: Asks) -> Any:
        """Do the same in a thread."""
        branch = in_branch(transaction, self.asked(operation, transaction.attempt))
        try:
            return self.participant.functions[operation](branch, *self.arguments)
        finally:
            branch.close()

    async def outside(self, operation: Asks, attempt: int) -> Any:
        """Ask a participant outside."""
        call = tcc.call_of(self.asked(operation, attempt))
        return await self.participant.call(call, operation, self.arguments)


class Reservations:
    """What the code of one saga has reserved, in the order in which it asked."""

    def __init__(self, replay: Replay, instance: Instance, ladder: RetryLadder, deadline: timedelta | None) -> None:
        self._replay = replay
        self._ladder = ladder
        until = instance.started_at + (deadline or _OPEN_AT_MOST)
        headers = {CORRELATION_ID: instance.correlation_id}
        run = f"{instance.id}/{instance.run}"
        self._saga = tcc.Instance(instance.type, run, instance.started_at, until, headers)
        self._branches: list[Branch] = []

    @property
    def left(self) -> list[Reserved[Any]]:
        """What is reserved, and not confirmed."""
        return [each.reserved for each in self._branches if each.reserved is not None and not each.is_confirmed]

    def reserve(self, participant: Participant[..., Any], arguments: tuple[Any, ...]) -> Operation[Any]:
        """Make the operation that reserves."""
        check_whole(participant)
        is_local, name = participant.mode == Mode.LOCAL, f"reserve {participant.name}"
        _, given = participant.arguments.write(arguments)
        kind = Kind.STEP if is_local else Kind.CALL
        operation = self._replay.operation(kind, None, name=name, digest=digest_of(arguments, name))
        branch = Branch(participant, tuple(given), self._saga, operation.mark.path)  # type: ignore[arg-type]
        operation.work = self._step(branch) if is_local else self._call(branch)
        self._branches.append(branch)
        return operation

    def confirming(self, reserved: Sequence[Reserved[Any]]) -> list[Operation[None]]:
        """Make the operations that confirm: one for all that are in this database, and one for each outside."""
        branches = [each.branch for each in reserved if not each.branch.is_confirmed]
        for branch in branches:
            branch.is_confirmed = True
        local = [each for each in branches if each.participant.mode == Mode.LOCAL]
        groups = [[each for each in local if each.participant.is_async is kind] for kind in (True, False)]
        made = [self._confirm_here(group) for group in groups if group]
        return made + [self._confirm_there(each) for each in branches if each.participant.mode != Mode.LOCAL]

    def _step(self, branch: Branch) -> Step:
        tries, cancels = (branch.participant.functions[each] for each in (Asks.TRY, Asks.CANCEL))
        action: Callable[..., Any]
        cancel: Callable[..., Any]
        if branch.participant.is_async:

            @wraps(tries)
            async def action(tx: StepTransaction) -> Any:
                return await branch.in_loop(tx, Asks.TRY)

            @wraps(cancels)
            async def cancel(tx: StepTransaction) -> Any:
                return await branch.in_loop(tx, Asks.CANCEL)
        else:

            @wraps(tries)
            def action(tx: SyncStepTransaction) -> Any:
                return branch.in_thread(tx, Asks.TRY)

            @wraps(cancels)
            def cancel(tx: SyncStepTransaction) -> Any:
                return branch.in_thread(tx, Asks.CANCEL)

        return Step(action, (), cancel, self._ladder, branch)

    def _call(self, branch: Branch) -> CallOut:
        async def action(call: Call) -> Any:
            return await branch.outside(Asks.TRY, call.attempt)

        async def cancel(undo: Undo[Any]) -> Any:
            return await branch.outside(Asks.CANCEL, undo.attempt)

        return CallOut(action, (), cancel, None, Doubt.AGAIN, _CALL_TIMEOUT, self._ladder, branch)

    def _confirm_here(self, branches: Sequence[Branch]) -> Operation[None]:
        name = "confirm " + ", ".join(each.participant.name for each in branches)
        confirms = branches[0].participant.functions[Asks.CONFIRM]
        action: Callable[..., Any]
        if branches[0].participant.is_async:

            @wraps(confirms)
            async def action(tx: StepTransaction) -> None:
                for branch in branches:
                    await branch.in_loop(tx, Asks.CONFIRM)
        else:

            @wraps(confirms)
            def action(tx: SyncStepTransaction) -> None:
                for branch in branches:
                    branch.in_thread(tx, Asks.CONFIRM)

        work = Step(action, (), None, self._ladder, form_of_result(_nothing))
        return self._replay.operation(Kind.STEP, work, name=name, digest=_digest(branches, name))

    def _confirm_there(self, branch: Branch) -> Operation[None]:
        async def action(call: Call) -> None:
            await branch.outside(Asks.CONFIRM, call.attempt)

        name = f"confirm {branch.participant.name}"
        work = CallOut(action, (), None, None, Doubt.AGAIN, _CALL_TIMEOUT, self._ladder, form_of_result(_nothing))
        return self._replay.operation(Kind.CALL, work, name=name, digest=_digest([branch], name))


def _digest(branches: Sequence[Branch], name: str) -> str:
    return digest_of(tuple(each.asked(Asks.CONFIRM, 1).reservation for each in branches), name)


def _nothing() -> None:
    """Return what confirming returns."""
