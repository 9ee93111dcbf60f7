"""How arguments and results are written to the journal, so that the code is given today what a replay will give it.

Each value goes to JSON and back before its first delivery: what its annotation does not carry through, a subclass or a
tuple in a list for example, is refused at once instead of being something else after a restart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, get_type_hints

import pydantic_core
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError

from txpatterns.errors import SagaDefinitionError, SagaValueRefused
from txpatterns.serialization.exact_json import brief
from txpatterns.serialization.sameness import alike

LARGEST = 256 * 1024
"""Bytes that one value may have."""

_ASYNC = ("Awaitable", "Coroutine", "CoroutineType")


class Form:
    """The JSON of one annotation's values."""

    def __init__(self, annotation: Any, owner: str) -> None:
        self._owner = owner
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation) as error:
            raise SagaDefinitionError(
                f"{owner} cannot be kept in a journal: {str(error).splitlines()[0]}",
                fix="Annotate it with what JSON can carry: a pydantic model, a dataclass, or plain values.",
            ) from error

    def write(self, value: object) -> tuple[str, object]:
        """Give the JSON text of a value, and the value as it is read from that.

        Raises:
            SagaValueRefused: it would come back as something else, or is too large.
        """
        try:
            text = self._adapter.dump_json(value, warnings=False)
            back = self._adapter.validate_json(text)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            why = "it cannot be written as JSON" if isinstance(error, PydanticSerializationError) else brief(error)
            raise SagaValueRefused(f"{self._owner} does not fit what is said of it: {why}.") from error
        if type(value) is not type(back) or not alike(value, back):
            raise SagaValueRefused(f"{self._owner} is a {type(value).__name__} that would come back as another value.")
        if len(text) > LARGEST:
            raise SagaValueRefused(f"{self._owner} has {len(text)} bytes; the limit is {LARGEST}.", fix=_LARGE)
        return text.decode(), back

    def read(self, text: str) -> object:
        """Give the value of a text.

        Raises:
            ValueError: the annotation does not fit what was written.
        """
        return self._adapter.validate_json(text)


_LARGE = "Store it yourself, and give the saga its key."


@lru_cache(maxsize=4096)
def form_of_result(function: Callable[..., Any]) -> Form:
    """Give the form of what a function returns, by its annotation.

    Raises:
        SagaDefinitionError: it has none, or one that JSON cannot carry.
    """
    return Form(annotation_of_result(function), f"What {name_of(function)} returns")


def annotation_of_result(function: Callable[..., Any]) -> Any:
    """Give what a function says that it returns, or that awaiting it gives.

    Raises:
        SagaDefinitionError: it says nothing.
    """
    hints = hints_of(function)
    name = name_of(function)
    if "return" not in hints:
        raise SagaDefinitionError(f"{name} does not say what it returns.", fix=f"Write: def {name}(...) -> SomeType:")
    annotation = hints["return"]
    return annotation.__args__[-1] if _is_awaitable(annotation) else annotation


def says_awaitable(function: Callable[..., Any]) -> bool:
    """Whether a function's annotation says that it gives something to await."""
    return _is_awaitable(hints_of(function).get("return"))


def _is_awaitable(annotation: object) -> bool:
    return getattr(getattr(annotation, "__origin__", None), "__name__", "") in _ASYNC


@lru_cache(maxsize=4096)
def form_of_arguments(function: Callable[..., Any]) -> Form:
    """Give the form of the tuple of arguments that follow a function's first.

    Raises:
        SagaDefinitionError: one has no annotation, or one that JSON cannot carry, or it takes a variable number.
    """
    hints, name = hints_of(function), name_of(function)
    kinds: list[Any] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise SagaDefinitionError(f"{name} takes {parameter}.", fix="Take each argument by its own name.")
        if parameter.name not in hints:
            raise SagaDefinitionError(f"The argument {parameter.name} of {name} has no annotation.")
        kinds.append(hints[parameter.name])
    return Form(tuple[tuple(kinds)] if kinds else tuple[()], f"The list of arguments of {name}")  # type: ignore[misc]


def digest_of(arguments: tuple[object, ...], owner: str) -> str:
    """Tell lists of arguments from each other: the same each time that the code gives the same.

    Raises:
        SagaValueRefused: one of them cannot be written as JSON.
    """
    if not arguments:
        return ""
    try:
        text = pydantic_core.to_json(_ordered(arguments), inf_nan_mode="constants", bytes_mode="base64")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise SagaValueRefused(
            f"{owner} was given an argument that cannot be told from another: {error}.",
            fix="Give plain values, models and dataclasses; connections, clients and the like belong into the action.",
        ) from error
    return blake2b(text, digest_size=8).hexdigest()


def hints_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Give a function's annotations, evaluated; of an object that can be called those of its ``__call__``.

    Raises:
        SagaDefinitionError: a name in them means nothing.
    """
    target = inspect.unwrap(function)
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = getattr(target, "func", None) or type(target).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as error:
        raise SagaDefinitionError(
            f"An annotation of {name_of(function)} cannot be read: {error}.",
            fix="Import the name where the function is defined, not under TYPE_CHECKING.",
        ) from error


def name_of(function: Callable[..., Any]) -> str:
    """Give the name of an action."""
    plain = function
    while not hasattr(plain, "__name__") and hasattr(plain, "func"):
        plain = plain.func
    return str(getattr(plain, "__name__", type(plain).__name__))


def _ordered(value: object) -> object:
    """Give a value in which sets are lists in one order, whatever this process's hashes are."""
    match value:
        case BaseModel():
            return _ordered({**value.__dict__, **(value.__pydantic_extra__ or {})})
        case Mapping():
            return {key: _ordered(each) for key, each in value.items()}
        case Set():
            return sorted(map(_ordered, value), key=pydantic_core.to_json)
        case list() | tuple():
            return list(map(_ordered, value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _ordered(getattr(value, field.name)) for field in fields(value)}
    return value
