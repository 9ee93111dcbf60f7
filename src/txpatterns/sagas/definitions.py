"""Which sagas there are: functions, each with a name and the versions that it serves."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeVar

from txpatterns.errors import SagaDefinitionError
from txpatterns.inbox.signatures import name_of, written_at
from txpatterns.retries import RetryLadder
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.values import Form, form_of_arguments, form_of_result

SagaFunction = TypeVar("SagaFunction", bound=Callable[..., Awaitable[Any]])

_LONGEST_NAME = 200


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

    def __post_init__(self) -> None:
        if not 1 <= self.since <= self.version:
            raise SagaDefinitionError(f"since={self.since} and version={self.version}: from 1 up, and not beyond.")
        if len({signal.channel for signal in self.signals}) < len(self.signals):
            raise SagaDefinitionError("signals= names the same event and field twice.")
        for error in self.errors:
            given: object = error
            if not (isinstance(given, type) and issubclass(given, Exception)):
                raise SagaDefinitionError(f"errors= takes classes of errors, not {given!r}.")


@dataclass(frozen=True, slots=True)
class Definition:
    """One function, and the versions of a type of saga that it serves."""

    type: str
    function: Callable[..., Any]
    options: Options
    arguments: Form
    result: Form
    fingerprint: str
    """Of the function's text: another one may go on where this one could not."""
    place: str

    def serves(self, version: int) -> bool:
        """Whether it runs sagas of a version."""
        return self.options.since <= version <= self.options.version


class Definitions:
    """The sagas of one application."""

    def __init__(self, app: str) -> None:
        self._app = app
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
        made = Definition(
            type_,
            function,
            options,
            form_of_arguments(function),
            form_of_result(function),
            fingerprint_of(function),
            written_at(function),
        )
        for known in self._by_type.get(type_, []):
            if known.options.since <= options.version and options.since <= known.options.version:
                raise SagaDefinitionError(
                    f"{type_} has two functions for one version: {known.place}, and {made.place}.",
                    fix="Each version has one function: since=1, version=2 for the older one, since=3 for the newer.",
                )
        self._by_type.setdefault(type_, []).append(made)
        return made

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

    def signals(self) -> list[Signal]:
        """Give what any saga here may wait for, each once."""
        return list(dict.fromkeys(signal for each in self for signal in each.options.signals))

    def known(self) -> Sequence[tuple[str, int, int, str]]:
        """Give what can be run here: type, first and last version, fingerprint."""
        return [(each.type, each.options.since, each.options.version, each.fingerprint) for each in self]


def fingerprint_of(function: Callable[..., Any]) -> str:
    """Tell versions of a function's text from each other, whatever its layout and comments are."""
    plain = inspect.unwrap(function)
    try:
        text = ast.dump(ast.parse(textwrap.dedent(inspect.getsource(plain))))
    except (OSError, TypeError, SyntaxError):  # it was typed in, or made by other code
        code = plain.__code__
        text = f"{code.co_code!r} {code.co_consts!r} {code.co_names!r}"
    return blake2b(text.encode(), digest_size=8).hexdigest()
