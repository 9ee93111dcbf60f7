"""Which sagas there are: functions, each with a name and the versions that it serves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from txpatterns.errors import SagaDefinitionError
from txpatterns.inbox.signatures import name_of, written_at
from txpatterns.retries import RetryLadder
from txpatterns.sagas.fingerprints import fingerprint_of, mix
from txpatterns.sagas.given import instance, some_time
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.values import Form, form_of_arguments, form_of_result

SagaFunction = TypeVar("SagaFunction", bound=Callable[..., Awaitable[Any]])

_LONGEST_NAME = 200
_ID = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Options:
    """How a saga is run, where it is said for it alone."""

    version: int = 1
    since: int = 1
    """The lowest version that the function serves, too."""
    errors: tuple[type[Exception], ...] = ()
    """What actions raise that the code is told at once, as it is."""
    signals: tuple[Signal, ...] = ()
    """The events that the code may wait for."""
    retry: RetryLadder = field(default_factory=RetryLadder)
    """The waits between the attempts of an operation that says nothing else."""
    deadline: timedelta | None = None
    """How long it may take from its start to its pivot, or to its end."""

    def __post_init__(self) -> None:
        instance(RetryLadder, self.retry, "retry=")
        if not 1 <= instance(int, self.since, "since=") <= instance(int, self.version, "version="):
            raise SagaDefinitionError(f"since={self.since} and version={self.version}: from 1 up, and not beyond.")
        if len({signal.channel for signal in self.signals}) < len(self.signals):
            raise SagaDefinitionError("signals= names the same event and field twice.")
        if self.deadline is not None:
            some_time(self.deadline, "deadline=")
        for error in self.errors:
            given: object = error
            if not (isinstance(given, type) and issubclass(given, Exception)):
                raise SagaDefinitionError(f"errors= takes classes of errors, not {given!r}.")
            if issubclass(error, ExceptionGroup):
                raise SagaDefinitionError(
                    f"errors= names {error.__name__}, and a step is told by what is in a group.",
                    fix="Name the classes of its members: the code is told the first of them.",
                )


def errors_of(given: Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    """Give the classes of errors that a saga names.

    Raises:
        SagaDefinitionError: it is no list.
    """
    if isinstance(given, type):
        raise SagaDefinitionError(
            f"errors= takes a list, not {given.__name__} itself.", fix=f"Write: errors=[{given.__name__}]"
        )
    return tuple(given)


@dataclass(frozen=True)
class Definition:
    """One function, and the versions of a type of saga that it serves."""

    type: str
    function: Callable[..., Any]
    options: Options
    arguments: Form
    result: Form
    place: str
    among: Definitions = field(repr=False, compare=False)
    """The sagas of its application."""
    build: str = ""
    """What its deploy is called."""
    watched: Callable[..., Any] | None = None
    """What is run in the function's place, and does the same: the test kit looks on."""

    def code(self, context: object, arguments: Sequence[Any]) -> Any:
        """Give the coroutine of a saga that runs."""
        return (self.watched or self.function)(context, *arguments)

    @cached_property
    def fingerprint(self) -> str:
        """Of the code's text: another one may go on where this one could not.

        It is made when it is asked for first: what the code names may be defined behind it.
        """
        whole = composed(self.function)
        return fingerprint_of(self.function, self.build) if whole is None else mix(self.build, whole.fingerprint)

    def serves(self, version: int) -> bool:
        """Whether it runs sagas of a version."""
        return self.options.since <= version <= self.options.version


@runtime_checkable
class Composed(Protocol):
    """The code of a saga that is made of parts, so that its own text does not tell it from others."""

    fingerprint: str
    place: str
    """Where it is written: file, line and name."""

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The events that it waits for."""


class Definitions:
    """The sagas of one application, in one ``build`` of its code."""

    def __init__(self, app: str, build: str = "") -> None:
        self._app = app
        self._build = build
        self._by_type: dict[str, list[Definition]] = {}

    def __iter__(self) -> Iterator[Definition]:
        return (each for known in self._by_type.values() for each in known)

    def __bool__(self) -> bool:
        return bool(self._by_type)

    def add(self, function: Callable[..., Any], name: str | None, options: Options) -> Definition:
        """Register a function.

        Raises:
            SagaDefinitionError: it is no saga, or another one serves the same version.
        """
        called = name or name_of(function)
        type_ = f"{self._app}.{called}"
        if not inspect.iscoroutinefunction(inspect.unwrap(function)):
            raise SagaDefinitionError(f"{called} is no async def function.")
        if not list(inspect.signature(function).parameters):
            raise SagaDefinitionError(f"{called} takes no SagaContext.")
        if len(type_) > _LONGEST_NAME or not type_.isprintable():
            raise SagaDefinitionError(f"{called[:40]!r} is no name for a saga: at most {_LONGEST_NAME} characters.")
        whole = composed(function)
        if whole is not None:
            options = replace(options, signals=tuple(dict.fromkeys([*options.signals, *whole.signals])))
        made = Definition(
            type_,
            function,
            options,
            form_of_arguments(function),
            form_of_result(function),
            written_at(function) if whole is None else whole.place,
            self,
            self._build,
        )
        for known in self._by_type.get(type_, []):
            if known.options.since <= options.version and options.since <= known.options.version:
                raise SagaDefinitionError(
                    f"{type_} has two functions for one version: {known.place}, and {made.place}.",
                    fix="Each version has one function: since=1, version=2 for the older one, since=3 for the newer.",
                )
        self._by_type.setdefault(type_, []).append(made)
        return made

    def take_in(self, others: Definitions) -> None:
        """Take over all sagas of another object, as they are."""
        for each in others:
            self._by_type.setdefault(each.type, []).append(replace(each, build=self._build))

    def of(self, function: Callable[..., Any]) -> Definition:
        """Give the definition of a function, for a start: it runs in its highest version.

        Raises:
            SagaDefinitionError: it is not registered.
        """
        for each in self:
            if each.function == function:  # a method is another object each time that it is asked for
                return each
        raise SagaDefinitionError(
            f"{name_of(function)} is no saga of this App.", fix="Put @app.saga(...) before the function."
        )

    def find(self, type_: str, version: int) -> Definition | None:
        """Give the function that runs a saga; None: there is none here."""
        return next((each for each in self._by_type.get(type_, []) if each.serves(version)), None)

    def latest(self, type_: str) -> Definition | None:
        """Give what a type, named with or without its application, is started as now; None: there is none here."""
        found = [each for each in self if each.type in (type_, f"{self._app}.{type_}")]
        return max(found, key=lambda each: each.options.version, default=None)

    def signals(self) -> list[Signal]:
        """Give what any saga here may wait for, each once."""
        return list(dict.fromkeys(signal for each in self for signal in each.options.signals))

    def known(self) -> Sequence[tuple[str, int, int, str]]:
        """Give what can be run here: type, first and last version, fingerprint."""
        return [(each.type, each.options.since, each.options.version, each.fingerprint) for each in self]


def composed(function: object) -> Composed | None:
    """Give the code of a saga as what it is made of; None: it is a function."""
    return function if isinstance(function, Composed) else None


def check_id(id: str) -> None:
    """Refuse what is no id for a saga.

    Raises:
        SagaDefinitionError: it is none.
    """
    if not _ID.fullmatch(instance(str, id, "id=")):
        raise SagaDefinitionError(f"{id[:40]!r} is no id for a saga.", fix="Use 1 to 200 printable ASCII characters.")
