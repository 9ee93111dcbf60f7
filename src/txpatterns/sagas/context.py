"""What a saga's code is given: the operations that are kept in its journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar, TypeVarTuple, overload

from txpatterns.errors import SagaDefinitionError
from txpatterns.retries import RetryLadder
from txpatterns.sagas.calls import Call, Done, Doubt, NotDone, Undo, Unknown
from txpatterns.sagas.definitions import Definitions, Options, check_id
from txpatterns.sagas.given import check_awaited, check_takes, instance, some_time
from txpatterns.sagas.notes import SagaNotes
from txpatterns.sagas.operations import (
    Aborted,
    CallOut,
    Child,
    First,
    Gather,
    Kind,
    Operation,
    Restarting,
    Step,
    Wait,
)
from txpatterns.sagas.replay import Replay
from txpatterns.sagas.runs import UNDONE_FIRST
from txpatterns.sagas.transactions import Instance, StepTransaction, SyncStepTransaction
from txpatterns.sagas.values import digest_of, form_of_result, name_of

R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
Ts = TypeVarTuple("Ts")


class SagaContext(SagaNotes):
    """The saga that runs, and what its code may do.

    The code may be run again from its beginning at any time, up to where it was: each operation has its result from
    the journal then. So what is not in the journal belongs into a step: clocks, random numbers, files, other services,
    and each ``await`` of something that this object has not given.
    """

    def __init__(
        self,
        replay: Replay,
        instance: Instance,
        version: int,
        options: Options,
        now: Callable[[], datetime],
        definitions: Definitions,
    ) -> None:
        super().__init__(replay, instance, options, now)
        self._ladder = options.retry
        self._definitions = definitions
        self.id = instance.id
        """The id that this saga was started with."""
        self.correlation_id = instance.correlation_id
        """What all messages of its story have in common: the id of the start's, or the saga's own."""
        self.version = version
        """The version that this saga was started with; it keeps it for life."""
        self.run = instance.run
        """The first is 1; each ``restart`` begins another."""

    @property
    def replaying(self) -> bool:
        """Whether the code does again what it had done before."""
        return self._replay.is_following

    @overload
    def step(
        self,
        action: Callable[[StepTransaction, *Ts], Awaitable[R]],
        *args: *Ts,
        compensate: Callable[[StepTransaction, *Ts], Awaitable[object]] | None = None,
        retry: RetryLadder | None = None,
        name: str | None = None,
    ) -> Operation[R]: ...
    @overload
    def step(
        self,
        action: Callable[[SyncStepTransaction, *Ts], R],
        *args: *Ts,
        compensate: Callable[[SyncStepTransaction, *Ts], object] | None = None,
        retry: RetryLadder | None = None,
        name: str | None = None,
    ) -> Operation[R]: ...
    def step(
        self,
        action: Callable[..., Any],
        *args: *Ts,
        compensate: Callable[..., Any] | None = None,
        retry: RetryLadder | None = None,
        name: str | None = None,
    ) -> Operation[Any]:
        """Do something in a transaction of the application's database: once.

        What ``action`` writes to ``tx.session`` commits together with the journal's fact that it is done, so it happens
        exactly once, however often the process dies. It is an ``async def`` that takes a ``StepTransaction``, or a
        ``def`` with a ``SyncStepTransaction``, and then ``args``; both those and its result are kept as JSON by their
        annotations. ``compensate`` undoes it, with the same arguments, if the saga fails later. ``retry`` says how long
        to wait between the attempts; after the last one the code is told ``StepFailed``. An error that the saga names
        in ``errors=``, or a ``Reject``, is told at once.

        Raises:
            SagaDefinitionError: the action says of no result what it is; or a compensation after the pivot.
            SagaValueRefused: an argument cannot be written as JSON.
        """
        called = name or name_of(action)
        for function in (action, compensate):
            check_takes(function, "transaction", len(args))
        self._refuse_behind_the_pivot(called, compensate)
        work = Step(action, args, compensate, self._ladder_of(retry, called), form_of_result(action))
        return self._replay.operation(Kind.STEP, work, name=called, digest=digest_of(args, called))

    def call(
        self,
        action: Callable[[Call, *Ts], Awaitable[R]],
        *args: *Ts,
        compensate: Callable[[Undo[R], *Ts], Awaitable[object]] | None = None,
        probe: Callable[[Call, *Ts], Awaitable[Done[R] | NotDone | Unknown]] | None = None,
        doubt: Doubt = Doubt.AGAIN,
        timeout: timedelta = timedelta(seconds=30),
        retry: RetryLadder | None = None,
        name: str | None = None,
    ) -> Operation[R]:
        """Ask somebody else to do something: at least once, outside of any transaction.

        That it may be under way is written down before it begins, and what it gave as soon as it has. ``action`` is
        an ``async def`` that takes a ``Call``, whose ``key`` is the same in each attempt, and then ``args``. What it
        raises leaves the call in doubt, and so does the end of its process: then ``probe``, if there is one, finds out
        what has become of it, and otherwise ``doubt`` says what is done. An error that the saga names in ``errors=``,
        and a ``Reject``, mean that it was refused, and had no effect; ``NotBegun`` that it was not made. One that takes
        longer than ``timeout`` is cut off. After the last wait of ``retry`` the code is told ``StepFailed``, which is
        ``unknown``.

        ``compensate`` undoes it if the saga fails later, outside of any transaction as well: it takes an ``Undo`` and
        the same arguments. What is in doubt is undone, too, when its request cannot be under way any more: after twice
        ``timeout``, and at least 30 seconds.

        Raises:
            SagaDefinitionError: the action says of no result what it is; or a compensation after the pivot.
            SagaValueRefused: an argument cannot be written as JSON.
        """
        called = name or name_of(action)
        for function, first in ((action, "Call"), (probe, "Call"), (compensate, "Undo")):
            if function is not None:
                check_takes(function, first, len(args))
                check_awaited(function)
        self._refuse_behind_the_pivot(called, compensate)
        some_time(timeout, f"The timeout of {called}")
        ladder = self._ladder_of(retry, called)
        work = CallOut(action, args, compensate, probe, doubt, timeout, ladder, form_of_result(action))
        return self._replay.operation(Kind.CALL, work, name=called, digest=digest_of(args, called))

    def child(
        self,
        saga: Callable[[SagaContext, *Ts], Awaitable[R]],
        *args: *Ts,
        id: str,
        compensate: Callable[[StepTransaction, *Ts], Awaitable[object]] | None = None,
    ) -> Wait[R]:
        """Start another saga of this App when this is awaited, and wait until it has ended; gives its result.

        It has an ``id``, a journal and a life of its own. It is started in the commit in which this one begins to
        wait: once, with this one's correlation id and trace. It undoes itself where it fails, and this code is told:
        an error that this saga names in ``errors=``, too, as it is, and any other as ``StepFailed``.

        When this saga is undone before the child has ended, or ``first`` drops it, the child is cancelled: what it has
        done is undone, unless it is behind its pivot; then it goes on to its end. This saga is undone further when the
        child has ended. What has completed stays done, unless ``compensate`` undoes it: a step, with the same
        arguments.

        Raises, when it is awaited:
            StepFailed: it was undone; or there is another saga with this id.

        Raises:
            SagaDefinitionError: the function is no saga of this App, or the id is none; or a compensation after the
                pivot.
            SagaValueRefused: an argument would not come back from JSON as it is.
        """
        definition = self._definitions.of(saga)
        check_id(id)
        check_takes(compensate, "transaction", len(args))
        self._refuse_behind_the_pivot(definition.type, compensate)
        text, _ = definition.arguments.write(args)
        digest, options = digest_of(args, definition.type), definition.options
        work = Child(
            definition.type,
            id,
            options.version,
            text,
            digest,
            options.deadline,
            definition.result,
            compensate,
            args,
            ladder=self._ladder,
        )
        return self._replay.wait(Kind.CHILD, work, name=f"{definition.type} {id}", digest=digest)

    @overload
    def first(self, a: Wait[R1], b: Wait[R2], /) -> Operation[R1 | R2]: ...
    @overload
    def first(self, a: Wait[R1], b: Wait[R2], c: Wait[R3], /) -> Operation[R1 | R2 | R3]: ...
    @overload
    def first(self, *waits: Wait[R]) -> Operation[R]: ...
    def first(self, *waits: Wait[Any]) -> Operation[Any]:
        """Wait for whichever of these comes first, and drop the others; gives what it gives, or raises what it raises.

        Only what can be dropped: events, answers, times, and children, which are cancelled.
        """
        if not waits or not all(isinstance(wait, Wait) for wait in waits):
            raise SagaDefinitionError("first takes at least one saga.wait_for(...), saga.sleep(...) or the like.")
        return self._replay.operation(Kind.FIRST, First(waits), name=str(len(waits)))

    @overload
    def gather(self, one: Awaitable[R1], /, *, at_once: int = 16) -> Operation[tuple[R1]]: ...
    @overload
    def gather(self, a: Awaitable[R1], b: Awaitable[R2], /, *, at_once: int = 16) -> Operation[tuple[R1, R2]]: ...
    @overload
    def gather(
        self, a: Awaitable[R1], b: Awaitable[R2], c: Awaitable[R3], /, *, at_once: int = 16
    ) -> Operation[tuple[R1, R2, R3]]: ...
    @overload
    def gather(
        self, a: Awaitable[R1], b: Awaitable[R2], c: Awaitable[R3], d: Awaitable[R4], /, *, at_once: int = 16
    ) -> Operation[tuple[R1, R2, R3, R4]]: ...
    @overload
    def gather(
        self,
        a: Awaitable[R1],
        b: Awaitable[R2],
        c: Awaitable[R3],
        d: Awaitable[R4],
        e: Awaitable[R5],
        /,
        *,
        at_once: int = 16,
    ) -> Operation[tuple[R1, R2, R3, R4, R5]]: ...
    @overload
    def gather(self, *parts: Awaitable[R], at_once: int = 16) -> Operation[tuple[R, ...]]: ...
    def gather(self, *parts: Awaitable[Any], at_once: int = 16) -> Operation[Any]:
        """Do several things at once, at most ``at_once`` of them at a time; gives their results, in this order.

        A part is an operation, or a coroutine of the saga's own code. When one fails, no other is begun any more; those
        that run are waited for, and then the first error is raised.
        """
        if at_once < 1:
            raise SagaDefinitionError("gather does at least one thing at a time.")
        return self._replay.operation(Kind.GATHER, Gather(parts, at_once), name=str(len(parts)))

    def _ladder_of(self, retry: RetryLadder | None, called: str) -> RetryLadder:
        return self._ladder if retry is None else instance(RetryLadder, retry, f"retry= of {called}")

    def restart(self, *args: object) -> NoReturn:
        """Begin anew with these arguments and an empty journal, as the same saga. Never returns.

        For code that would go on without an end: the longer its journal, the longer each replay. Keys and messages are
        those of another run, a deadline is counted anew, and events that were had are not had again. What is still to
        be undone would be forgotten: so it is for after the pivot, or where nothing is. A child that ``first`` has
        dropped, and that is being cancelled, is something.

        Raises:
            SagaDefinitionError: something that the saga has done may have to be undone.
        """
        if not self._replay.may_restart():
            raise SagaDefinitionError(UNDONE_FIRST)
        raise Restarting(args)

    def abort(self, reason: str) -> None:
        """End the saga here, and undo what it has done. Never returns."""
        raise Aborted(reason)
