"""How values are kept as JSON between two runs of the code that gave them: what comes back is what was given.

Each value goes to JSON and back before it is used: what its annotation does not carry through, a subclass or a tuple in
a list for example, is refused at once instead of being something else after a restart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError

from txpatterns.errors import ConfigurationError, TxPatternsError
from txpatterns.serialization.exact_json import brief
from txpatterns.serialization.sameness import alike

LARGEST = 256 * 1024
"""Bytes that one value may have."""

_ASYNC = ("Awaitable", "Coroutine", "CoroutineType")


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where values are kept, and what is raised where that cannot be."""

    place: str
    """As errors name it: "in a journal"."""
    misfit: type[ConfigurationError]
    """Raised of a function whose annotations JSON cannot carry."""
    refused: type[TxPatternsError]
    """Raised of a value."""
    too_large: str
    """What to do about a value that is too large."""


class Form:
    """The JSON of one annotation's values."""

    def __init__(self, annotation: Any, owner: str, keeping: Keeping) -> None:
        self._owner = owner
        self._keeping = keeping
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation) as error:
            raise keeping.misfit(
                f"{owner} cannot be kept {keeping.place}: {str(error).splitlines()[0]}",
                fix="Annotate it with what JSON can carry: a pydantic model, a dataclass, or plain values.",
            ) from error

    def write(self, value: object) -> tuple[str, object]:
        """Give the JSON text of a value, and the value as it is read from that.

        Raises what the place raises where it would come back as something else, or is too large.
        """
        refused = self._keeping.refused
        try:
            text = self._adapter.dump_json(value, warnings=False)
            back = self._adapter.validate_json(text)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            why = "it cannot be written as JSON" if isinstance(error, PydanticSerializationError) else brief(error)
            raise refused(f"{self._owner} does not fit what is said of it: {why}.") from error
        if type(value) is not type(back) or not alike(value, back):
            raise refused(f"{self._owner} is a {type(value).__name__} that would come back as another value.")
        if len(text) > LARGEST:
            too_large = f"{self._owner} has {len(text)} bytes; the limit is {LARGEST}."
            raise refused(too_large, fix=self._keeping.too_large)
        return text.decode(), back

    def read(self, text: str) -> object:
        """Give the value of a text.

        Raises:
            ValueError: the annotation does not fit what was written.
        """
        return self._adapter.validate_json(text)


def annotation_of_result(function: Callable[..., Any], keeping: Keeping) -> Any:
    """Give what a function says that it returns, or that awaiting it gives. Raises a misfit where it says nothing."""
    hints = hints_of(function, keeping)
    name = name_of(function)
    if "return" not in hints:
        raise keeping.misfit(f"{name} does not say what it returns.", fix=f"Write: def {name}(...) -> SomeType:")
    annotation = hints["return"]
    return annotation.__args__[-1] if _is_awaitable(annotation) else annotation


def says_awaitable(function: Callable[..., Any], keeping: Keeping) -> bool:
    """Whether a function's annotation says that it gives something to await."""
    return _is_awaitable(hints_of(function, keeping).get("return"))


def _is_awaitable(annotation: object) -> bool:
    return getattr(getattr(annotation, "__origin__", None), "__name__", "") in _ASYNC


def annotation_of_arguments(function: Callable[..., Any], keeping: Keeping) -> Any:
    """Give the tuple of what a function says of the arguments that follow its first.

    Raises a misfit where one has no annotation, or it takes a variable number.
    """
    hints, name = hints_of(function, keeping), name_of(function)
    kinds: list[Any] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise keeping.misfit(f"{name} takes {parameter}.", fix="Take each argument by its own name.")
        if parameter.name not in hints:
            raise keeping.misfit(f"The argument {parameter.name} of {name} has no annotation.")
        kinds.append(hints[parameter.name])
    return tuple[tuple(kinds)] if kinds else tuple[()]  # type: ignore[misc]


def hints_of(function: Callable[..., Any], keeping: Keeping) -> Mapping[str, Any]:
    """Give a function's annotations, evaluated; of an object that can be called those of its ``__call__``.

    Raises a misfit where a name in them means nothing.
    """
    target = inspect.unwrap(function)
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = getattr(target, "func", None) or type(target).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as error:
        raise keeping.misfit(
            f"An annotation of {name_of(function)} cannot be read: {error}.",
            fix="Import the name where the function is defined, not under TYPE_CHECKING.",
        ) from error


def name_of(function: Callable[..., Any]) -> str:
    """Give the name of an action."""
    plain = function
    while not hasattr(plain, "__name__") and hasattr(plain, "func"):
        plain = plain.func
    return str(getattr(plain, "__name__", type(plain).__name__))
