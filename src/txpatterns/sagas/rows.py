"""The rows of a step list: what is done, how it is undone, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from keyword import iskeyword
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from txpatterns.errors import SagaDefinitionError
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.messages import Event
from txpatterns.retries import RetryLadder
from txpatterns.sagas.calls import Call, Done, Doubt, NotDone, Undo, Unknown
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.fitting import check_same, results_taken
from txpatterns.sagas.given import instance, some_time
from txpatterns.sagas.operations import Kind, Operation
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.transactions import StepTransaction, SyncStepTransaction
from txpatterns.sagas.values import annotation_of_result, form_of_result, name_of

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)
T = TypeVar("T")
P = ParamSpec("P")

_TRANSACTIONS: Mapping[bool, type] = {True: StepTransaction, False: SyncStepTransaction}
_AWAITED = "Write it as async def."


class Row(ABC, Generic[D_contra]):
    """One row of a step list."""

    kind: Kind
    name: str
    compensate: Callable[..., Any] | None = None
    retry: RetryLadder | None = None

    @property
    @abstractmethod
    def result(self) -> Any:
        """The annotation of what it gives."""

    @abstractmethod
    def takes(self, argument: type, former: Mapping[str, Any]) -> list[str]:
        """Give the names of the former results that it is given.

        Raises:
            SagaDefinitionError: one of its functions takes something else.
        """

    @abstractmethod
    def begin(self, saga: SagaContext, argument: D_contra, given: Sequence[object]) -> Operation[Any]:
        """Ask for what it does."""

    @abstractmethod
    def parts(self) -> Sequence[object]:
        """Give all that it is made of: its functions as they are, and what can be told from others by its repr."""


class SagaStep(Row[D]):
    """A step in a transaction of the application's database, done once: see ``SagaContext.step``.

    ``action`` is an ``async def`` that takes a ``StepTransaction``, or a ``def`` with a ``SyncStepTransaction``, then
    the saga's argument, and then results of steps before, each by its name: ``charge(tx, cart, reserve)`` is given what
    the step ``reserve`` has given. ``compensate`` is given the same.
    """

    kind = Kind.STEP

    @overload
    def __init__(
        self,
        name: str,
        action: Callable[Concatenate[StepTransaction, D, P], Awaitable[object]],
        *,
        compensate: Callable[Concatenate[StepTransaction, D, P], Awaitable[object]] | None = None,
        retry: RetryLadder | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        action: Callable[Concatenate[SyncStepTransaction, D, P], object],
        *,
        compensate: Callable[Concatenate[SyncStepTransaction, D, P], object] | None = None,
        retry: RetryLadder | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        action: Callable[..., Any],
        *,
        compensate: Callable[..., Any] | None = None,
        retry: RetryLadder | None = None,
    ) -> None:
        self.name = _checked(name, retry, action, compensate)
        self.action = action
        self.compensate = compensate
        self.retry = retry

    @property
    def result(self) -> Any:
        return _result_of(self.action)

    def takes(self, argument: type, former: Mapping[str, Any]) -> list[str]:
        wanted = _TRANSACTIONS[is_coroutine_function(self.action)]
        taken = results_taken(self.action, {f"a {wanted.__name__}": wanted, "the argument": argument}, former)
        if self.compensate is not None:
            check_same(self.compensate, _TRANSACTIONS[is_coroutine_function(self.compensate)], self.action, len(taken))
        return taken

    def begin(self, saga: SagaContext, argument: D, given: Sequence[object]) -> Operation[Any]:
        step: Any = saga.step
        operation: Operation[Any] = step(
            self.action, argument, *given, compensate=self.compensate, retry=self.retry, name=self.name
        )
        return operation

    def parts(self) -> Sequence[object]:
        return self.action, self.compensate, self.retry


class SagaCall(Row[D]):
    """A call to somebody else, outside of any transaction, made at least once: see ``SagaContext.call``.

    ``action`` is an ``async def`` that takes a ``Call``, then the saga's argument, and then results of steps before,
    each by its name. ``compensate``, which takes an ``Undo``, and ``probe`` are given the same.
    """

    kind = Kind.CALL

    def __init__(
        self,
        name: str,
        action: Callable[Concatenate[Call, D, P], Awaitable[T]],
        *,
        compensate: Callable[Concatenate[Undo[T], D, P], Awaitable[object]] | None = None,
        probe: Callable[Concatenate[Call, D, P], Awaitable[Done[T] | NotDone | Unknown]] | None = None,
        doubt: Doubt = Doubt.AGAIN,
        timeout: timedelta = timedelta(seconds=30),
        retry: RetryLadder | None = None,
    ) -> None:
        self.name = _checked(name, retry, action, compensate, probe)
        for each in (action, compensate, probe):
            if each is not None and not is_coroutine_function(each):
                raise SagaDefinitionError(f"{name_of(each)}, of the call {name}, is no async def.", fix=_AWAITED)
        self.action: Callable[..., Any] = action
        self.compensate = compensate
        self.probe: Callable[..., Any] | None = probe
        self.doubt = instance(Doubt, doubt, name)
        self.timeout = some_time(timeout, f"The timeout of {name}")
        self.retry = retry

    @property
    def result(self) -> Any:
        return _result_of(self.action)

    def takes(self, argument: type, former: Mapping[str, Any]) -> list[str]:
        taken = results_taken(self.action, {"a Call": Call, "the argument": argument}, former)
        for function, first in ((self.compensate, Undo), (self.probe, Call)):
            if function is not None:
                check_same(function, first, self.action, len(taken))
        return taken

    def begin(self, saga: SagaContext, argument: D, given: Sequence[object]) -> Operation[Any]:
        call: Any = saga.call
        operation: Operation[Any] = call(
            self.action,
            argument,
            *given,
            compensate=self.compensate,
            probe=self.probe,
            doubt=self.doubt,
            timeout=self.timeout,
            retry=self.retry,
            name=self.name,
        )
        return operation

    def parts(self) -> Sequence[object]:
        return self.action, self.compensate, self.probe, self.doubt, self.timeout, self.retry


class SagaWait(Row[object]):
    """A wait for an event, which is its result: see ``SagaContext.wait_for``.

    ``key`` is a function, or a lambda, that takes the saga's argument and then results of steps before, each by its
    name, and gives the key. What it takes and gives is not known to type checkers. The App listens to the event without
    being told in ``signals=``. When nothing comes in ``timeout`` the saga is undone; None waits for ever.
    """

    kind = Kind.WAIT

    def __init__(
        self,
        name: str,
        event: type[Event],
        *,
        key: Callable[..., object],
        timeout: timedelta | None,
        by: str | None = None,
    ) -> None:
        self.name = _checked(name, None, key)
        self.signal = Signal(event, by)
        self.key = key
        self.timeout = None if timeout is None else some_time(timeout, f"The timeout of {name}")

    @property
    def result(self) -> Any:
        return self.signal.event

    def takes(self, argument: type, former: Mapping[str, Any]) -> list[str]:
        return results_taken(self.key, {"the argument": argument}, former)

    def begin(self, saga: SagaContext, argument: object, given: Sequence[object]) -> Operation[Any]:
        signal = self.signal
        return saga.wait_for(signal.event, key=self.key(argument, *given), timeout=self.timeout, by=signal.by)

    def parts(self) -> Sequence[object]:
        return self.key, self.signal.channel, self.timeout


class SagaSleep(Row[object]):
    """A time that is waited: see ``SagaContext.sleep``. Its result, which nobody needs, is None."""

    kind = Kind.SLEEP

    def __init__(self, name: str, time: timedelta) -> None:
        self.name = _named(name)
        self.time = some_time(time, f"The time of {name}")

    @property
    def result(self) -> Any:
        return type(None)

    def takes(self, argument: type, former: Mapping[str, Any]) -> list[str]:
        return []

    def begin(self, saga: SagaContext, argument: object, given: Sequence[object]) -> Operation[Any]:
        return saga.sleep(self.time)

    def parts(self) -> Sequence[object]:
        return (self.time,)


class Pivot:
    """The mark in a step list behind which the saga only goes forward: see ``SagaContext.pivot``."""

    def __repr__(self) -> str:
        return "PIVOT"


PIVOT = Pivot()
"""The mark in a step list behind which the saga only goes forward: nothing is undone any more, whatever fails."""


def _named(name: str) -> str:
    given: object = name
    if not isinstance(given, str) or not given.isidentifier() or iskeyword(given):
        raise SagaDefinitionError(
            f"{given!r} is no name for a step.", fix="Others take its result by its name: write reserve_stock, say."
        )
    return name


def _checked(name: str, retry: RetryLadder | None, action: object, *others: object) -> str:
    _named(name)
    for function in (action, *others):
        if not callable(function) and (function is action or function is not None):
            raise SagaDefinitionError(f"{name} is given {function!r}, which cannot be called.")
    if retry is not None:
        instance(RetryLadder, retry, name)
    return name


def _result_of(action: Callable[..., Any]) -> Any:
    form_of_result(action)  # refuses what a journal cannot carry
    return annotation_of_result(action)
