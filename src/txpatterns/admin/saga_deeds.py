"""What an operator does to a saga that does not go on by itself. Each deed is one transaction, and is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from txpatterns.admin.audit import Deed
from txpatterns.admin.saga_code import Rebuilt, SagaCode
from txpatterns.admin.sagas import Stood, read_whole, take, write_down
from txpatterns.coordination import say
from txpatterns.database import Database
from txpatterns.deadletters.store import scrub
from txpatterns.errors import SagaKept, SagaValueRefused, WaitTimedOut
from txpatterns.sagas.decisions import aborted, failure_of, is_past_pivot
from txpatterns.sagas.facts import Attempted, Ended, Fact, Failed, Failure, Undone
from txpatterns.sagas.handover import cancel, hand_over
from txpatterns.sagas.neighbours import Beside, Neighbours
from txpatterns.sagas.operations import CallOut, Child, Lock, Operation, Sleep, Step
from txpatterns.sagas.schema import SAGAS, Status
from txpatterns.sagas.signal_store import SignalStore
from txpatterns.sagas.signals import WaitFor
from txpatterns.sagas.store import Write
from txpatterns.serialization.exact_json import brief

_OPERATOR = "operator"
_TRIES = 5


class Action(StrEnum):
    """What can be done to a saga."""

    RETRY = "retry"
    RESOLVE = "resolve"
    SKIP = "skip"
    CANCEL = "cancel"
    COMPENSATE = "compensate"


_UNDONE = {Action.CANCEL: "cancelled", Action.COMPENSATE: "undone"}


@dataclass(frozen=True, slots=True)
class SagaInHand:
    """One saga in the hands of an operator, who has a reason.

    Each method raises SagaKept, and changes nothing, where there is no such saga, where it has ended (but see
    ``compensate``), and where a process that lives runs it; ConfigurationError where several types have its id;
    SchemaError without its tables.
    """

    database: Database
    id: str
    type: str | None
    deed: Deed

    async def retry(self) -> None:
        """Let it go on now, with whatever code is there: what waits for another attempt has it at once."""

        def work(connection: Connection) -> None:
            stood = take(connection, self.database, self.id, self.type)
            facts = [] if stood.is_undone else _brought_forward(stood.facts)
            self._go_on(connection, stood, facts)
            write_down(connection, self.database, stood, self.deed, Action.RETRY)

        await self.database.transact(work)

    async def cancel(self) -> None:
        """Undo it now, wherever its code is. What may be under way is undone when it has settled.

        Raises:
            SagaKept: it is behind its pivot, or is being undone already.
        """
        await self.database.transact(partial(self._undo, action=Action.CANCEL))

    async def compensate(self) -> None:
        """Undo it now as ``cancel`` does, also where it has completed: what it did is undone, the last first.

        Whoever was given its result is not told, what it has sent stays sent, and its locks are no longer its own.

        Raises:
            SagaKept: it is or has been behind its pivot, is undone already, or was started by another saga, which has
                its result.
        """
        await self.database.transact(partial(self._undo, action=Action.COMPENSATE))

    async def resolve(self, code: SagaCode, path: str, value: str) -> None:
        """Tell its code what an operation has come to that it waits for: what the operator knows, as JSON.

        Raises:
            SagaKept: its code does not wait for that, or does not read the value.
            SagaDiverged: its code does not ask for what the journal has.
        """

        def plan(rebuilt: Rebuilt) -> Fact:
            if rebuilt.is_undone:
                raise SagaKept(f"{self.id} is being undone.", fix="To pass over what is undone next: txp saga skip.")
            return _ended(rebuilt.open(path), value)

        await self._tell(code, Action.RESOLVE, path, plan)

    async def skip(self, code: SagaCode, path: str) -> None:
        """Tell its code that an operation has failed without an effect; where it is undone, pass over what is next.

        Raises:
            SagaKept: its code does not wait for that, or it is not what is undone next.
            SagaDiverged: its code does not ask for what the journal has.
        """

        def plan(rebuilt: Rebuilt) -> Fact:
            if rebuilt.is_undone:
                return Undone(rebuilt.to_undo(path))
            operation = rebuilt.open(path)
            why = f"skipped by an operator: {self._why}"
            if isinstance(operation.work, (WaitFor, Lock)):
                return Failed(operation.mark, failure_of(WaitTimedOut(why)))
            if not isinstance(operation.work, (Step, CallOut)):
                fix = "See: txp saga resolve --help"
                if isinstance(operation.work, Child):
                    fix = f"To undo it: txp saga cancel {operation.work.id}"
                raise SagaKept(f"A {operation.mark} does not fail.", fix=fix)
            return Failed(operation.mark, Failure("txpatterns.errors:StepFailed", why))

        await self._tell(code, Action.SKIP, path, plan)

    def _undo(self, connection: Connection, action: Action) -> None:
        stood = take(connection, self.database, self.id, self.type, though_completed=action is Action.COMPENSATE)
        has_completed = stood.saga.status == Status.COMPLETED
        if stood.is_undone:
            raise SagaKept(f"{self.id} is being undone already.", fix="To go on with that now: txp saga retry ID")
        if is_past_pivot(stood.facts):
            fix = "Mend what fails, or tell its code what has become of that: txp saga resolve, txp saga skip."
            if has_completed:
                fix = "To take back what it did, start a saga that does."
            raise SagaKept(f"{self.id} is behind its pivot, and only goes forward.", fix=fix)
        if has_completed and stood.saga.parent is not None:
            raise SagaKept(
                f"{self.id} has completed for the saga that started it, and what it did is that one's to undo.",
                fix="Undo that one; it is named by: txp saga show ID",
            )
        failure = aborted(f"{_UNDONE[action]} by an operator: {self._why}")
        cancel(connection, self.database, stood.place, failure, _OPERATOR)
        say(connection, SAGAS)
        write_down(connection, self.database, stood, self.deed, action)

    async def _tell(self, code: SagaCode, action: Action, path: str, plan: Callable[[Rebuilt], Fact]) -> None:
        """Run the code to see what it waits for, and write the fact if the saga still stands there then."""
        find = partial(read_whole, database=self.database, id=self.id, type=self.type)
        for _ in range(_TRIES):
            seen = await self.database.read(find)
            async with code.rebuilt(seen.saga, seen.entries, seen.now, self.database.clock) as rebuilt:
                ahead, fact = rebuilt.ahead, plan(rebuilt)
                send = partial(code.send, rebuilt, ahead)
                planned = _Planned(action, path, seen, [*ahead.facts, fact], await rebuilt.told(fact), send)
                if await self.database.transact(partial(self._write, planned=planned)):
                    return
        raise SagaKept(f"{self.id} goes on all the time.", fix="Try again when it waits.")

    def _write(self, connection: Connection, planned: _Planned) -> bool:
        stood, seen = take(connection, self.database, self.id, self.type), planned.seen
        if (stood.saga.epoch, len(stood.entries)) != (seen.saga.epoch, len(seen.entries)):
            return False
        planned.send(connection)
        SignalStore(self.database).forget(connection, stood.saga.number, planned.told.unwaits)
        told = planned.told.beside
        beside = Beside(cancels=told.cancels, leaves=told.leaves)
        if beside:
            Neighbours(self.database).change(connection, stood.saga.number, beside)
        self._go_on(connection, stood, planned.facts)
        write_down(connection, self.database, stood, self.deed, planned.action, planned.path)
        return True

    def _go_on(self, connection: Connection, stood: Stood, facts: Sequence[Fact]) -> None:
        status = Status.COMPENSATING if stood.is_undone else Status.RUNNING
        hand_over(connection, self.database, stood.place, facts, status)
        say(connection, SAGAS)

    @property
    def _why(self) -> str:
        return scrub(self.deed.reason or "")


@dataclass(frozen=True, slots=True)
class _Planned:
    """What is to be written about an operation, where the saga still stands as it was seen."""

    action: Action
    path: str
    seen: Stood
    facts: Sequence[Fact]
    told: Write
    send: Callable[[Connection], None]


def _brought_forward(facts: Sequence[Fact]) -> list[Fact]:
    """Give the facts by which what waits for another attempt has it now; its attempts count on."""
    waits: dict[str, Attempted] = {}
    for fact in facts:
        if isinstance(fact, Attempted):
            waits[fact.mark.path] = fact
        elif isinstance(fact, (Ended, Failed)):
            waits.pop(fact.mark.path, None)
    return [replace(fact, after=0.0, by=_OPERATOR) for fact in waits.values()]


def _ended(operation: Operation[Any], value: str) -> Ended:
    """Give the fact that an operation has come to a value.

    Raises:
        SagaKept: it has no values, or this is none of them.
    """
    work = operation.work
    if isinstance(work, Sleep):
        if value.strip() != "null":
            raise SagaKept(f"A {operation.mark} has no value.", fix="To end it now: --value null")
        return Ended(operation.mark, "null")
    if not isinstance(work, (Step, CallOut, WaitFor)):
        raise SagaKept(f"Of a {operation.mark} nobody can tell the value.")
    fix = "Give --value as JSON: what its action returns, or the event."
    try:
        text, _ = work.form.write(work.form.read(value))
    except SagaValueRefused as error:
        raise SagaKept(error.message, fix=fix) from error
    except ValueError as error:
        raise SagaKept(f"That is no value of {operation.mark}: {brief(error)}.", fix=fix) from error
    return Ended(operation.mark, text)
