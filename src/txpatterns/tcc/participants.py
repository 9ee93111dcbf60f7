"""Participants: what takes part in a transaction, as three functions that try, confirm and cancel."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import anyio.to_thread

from txpatterns.errors import TccDefinitionError, TccValueRefused
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.inbox.signatures import written_at
from txpatterns.serialization.forms import Form, Keeping, annotation_of_arguments, annotation_of_result, name_of
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.transactions import BranchCall, BranchTransaction, SyncBranchTransaction

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", BranchTransaction, BranchCall)
U = TypeVar("U", SyncBranchTransaction, BranchCall)
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_BRANCH = Keeping("with a branch", TccDefinitionError, TccValueRefused, "Store it yourself, and give its key.")


class Mode(StrEnum):
    """Where what a participant reserves is kept."""

    LOCAL = "local"
    """In the application's database: it is written in the transaction that notes it."""
    INTENT = "intent"
    """Elsewhere: it is noted first that it is about to be asked, and then it is asked."""


class Participant(Generic[P, R]):
    """What takes part in transactions: ``await tcc.try_(stock, "A1", 2)``."""

    def __init__(self, name: str, mode: Mode, function: Callable[..., Any]) -> None:
        self.name = name
        self.mode = mode
        self.place = written_at(function)
        self.is_async = is_coroutine_function(function)
        self.functions: dict[Operation, Callable[..., Any]] = {Operation.TRY: function}
        """What tries, confirms and cancels."""
        self._signature = inspect.signature(function)
        self._kinds = annotation_of_arguments(function, _BRANCH)
        self.arguments = Form(self._kinds, f"The list of arguments of {name}", _BRANCH)
        self.result = Form(annotation_of_result(function, _BRANCH), f"What {name} returns", _BRANCH)

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Give the arguments of a try in the order of the function's.

        Raises:
            TypeError: they do not fit it.
        """
        given = self._signature.bind(None, *args, **kwargs)
        given.apply_defaults()
        return given.args[1:]

    async def call(self, call: BranchCall, operation: Operation, arguments: tuple[Any, ...]) -> Any:
        """Ask somebody outside; a ``def`` does it in a thread, which nobody waits for any more when time is over."""
        function = self.functions[operation]
        if self.is_async:
            return await function(call, *arguments)
        return await anyio.to_thread.run_sync(function, call, *arguments, abandon_on_cancel=True)

    def missing(self) -> list[Operation]:
        """Say what it does not know how to do."""
        return [each for each in Operation if each not in self.functions]

    def add(self, operation: Operation, function: Callable[..., Any]) -> None:
        """Register what confirms, or what cancels.

        Raises:
            TccDefinitionError: it takes other arguments than what tries, or there is one already.
        """
        told = f"{name_of(function)}, which is to {operation} {self.name},"
        if operation in self.functions:
            raise TccDefinitionError(f"{self.name} has two functions to {operation}.")
        if is_coroutine_function(function) != self.is_async:
            kind = "async def" if self.is_async else "def"
            raise TccDefinitionError(f"{told} is to be {kind}, as what tries is.")
        names, own = (
            list(inspect.signature(each).parameters)[1:] for each in (self.functions[Operation.TRY], function)
        )
        if names != own or annotation_of_arguments(function, _BRANCH) != self._kinds:
            raise TccDefinitionError(f"{told} takes other arguments than what tries.")
        self.functions[operation] = function


class AsyncParticipant(Participant[P, R], Generic[T, P, R]):
    """One whose functions are ``async def``."""

    def confirm(
        self, function: Callable[Concatenate[T, P], Awaitable[object]]
    ) -> Callable[Concatenate[T, P], Awaitable[object]]:
        """Register, as a decorator, what makes a reservation final. It is repeated until it succeeds."""
        self.add(Operation.CONFIRM, function)
        return function

    def cancel(
        self, function: Callable[Concatenate[T, P], Awaitable[object]]
    ) -> Callable[Concatenate[T, P], Awaitable[object]]:
        """Register, as a decorator, what gives a reservation back. It is repeated until it succeeds."""
        self.add(Operation.CANCEL, function)
        return function


class SyncParticipant(Participant[P, R], Generic[U, P, R]):
    """One whose functions are ``def``, and run in a thread."""

    def confirm(self, function: Callable[Concatenate[U, P], object]) -> Callable[Concatenate[U, P], object]:
        """Register, as a decorator, what makes a reservation final. It is repeated until it succeeds."""
        self.add(Operation.CONFIRM, function)
        return function

    def cancel(self, function: Callable[Concatenate[U, P], object]) -> Callable[Concatenate[U, P], object]:
        """Register, as a decorator, what gives a reservation back. It is repeated until it succeeds."""
        self.add(Operation.CANCEL, function)
        return function


class Participants:
    """The participants of one application."""

    def __init__(self) -> None:
        self._by_name: dict[str, Participant[..., Any]] = {}

    def __iter__(self) -> Iterator[Participant[..., Any]]:
        return iter(self._by_name.values())

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def add(self, participant: Participant[..., Any]) -> None:
        """Register one.

        Raises:
            TccDefinitionError: its name is none, or is another's.
        """
        name = participant.name
        if not _NAME.fullmatch(name):
            raise TccDefinitionError(
                f"{name[:40]!r} is no name for a participant.", fix="Use 1 to 200 letters, digits, dots, - and _."
            )
        if name in self._by_name:
            raise TccDefinitionError(f"Two participants are called {name}: {self._by_name[name].place} is the other.")
        self._by_name[name] = participant

    def take_in(self, others: Participants) -> None:
        """Take over all participants of another object."""
        self._by_name.update(others._by_name)

    def find(self, name: str) -> Participant[..., Any] | None:
        """Give the participant of a name; None: there is none here."""
        return self._by_name.get(name)

    def check(self) -> None:
        """Refuse participants that lack a function.

        Raises:
            TccDefinitionError: names it.
        """
        for each in self:
            check_whole(each)


def check_whole(participant: Participant[..., Any]) -> None:
    """Refuse a participant that lacks a function.

    Raises:
        TccDefinitionError: names it.
    """
    if missing := participant.missing():
        raise TccDefinitionError(
            f"The participant {participant.name} does not know how to {' or '.join(missing)}.",
            fix=f"Put a decorator before the function that does: @{participant.name}.{missing[0]}",
        )


class Local:
    """The decorator that ``participant(name, mode="local")`` gives."""

    def __init__(self, name: str, keep: Callable[[Participant[..., Any]], None]) -> None:
        self._name = name
        self._keep = keep

    @overload
    def __call__(
        self, function: Callable[Concatenate[BranchTransaction, P], Awaitable[R]], /
    ) -> AsyncParticipant[BranchTransaction, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[SyncBranchTransaction, P], R], /
    ) -> SyncParticipant[SyncBranchTransaction, P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Participant[..., Any]:
        kind = AsyncParticipant if is_coroutine_function(function) else SyncParticipant
        made: Participant[..., Any] = kind(self._name, Mode.LOCAL, function)
        self._keep(made)
        return made


class Intent:
    """The decorator that ``participant(name, mode="intent")`` gives."""

    def __init__(self, name: str, keep: Callable[[Participant[..., Any]], None]) -> None:
        self._name = name
        self._keep = keep

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an awaitable, too, is something that a def may return
        self, function: Callable[Concatenate[BranchCall, P], Awaitable[R]], /
    ) -> AsyncParticipant[BranchCall, P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[BranchCall, P], R], /) -> SyncParticipant[BranchCall, P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Participant[..., Any]:
        kind = AsyncParticipant if is_coroutine_function(function) else SyncParticipant
        made: Participant[..., Any] = kind(self._name, Mode.INTENT, function)
        self._keep(made)
        return made
