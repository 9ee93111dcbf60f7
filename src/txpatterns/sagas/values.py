"""How arguments and results are written to the journal, so that the code is given today what a replay will give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any

import pydantic_core
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from txpatterns.errors import SagaDefinitionError, SagaValueRefused
from txpatterns.serialization import forms
from txpatterns.serialization.forms import LARGEST, Keeping, name_of

__all__ = [
    "LARGEST",
    "Form",
    "annotation_of_result",
    "digest_of",
    "form_of_arguments",
    "form_of_result",
    "hints_of",
    "name_of",
    "says_awaitable",
]

_JOURNAL = Keeping(
    "in a journal", SagaDefinitionError, SagaValueRefused, "Store it yourself, and give the saga its key."
)

hints_of = partial(forms.hints_of, keeping=_JOURNAL)
"""Give a function's annotations, evaluated. Raises SagaDefinitionError where a name in them means nothing."""
annotation_of_result = partial(forms.annotation_of_result, keeping=_JOURNAL)
"""Give what a function says that it returns. Raises SagaDefinitionError where it says nothing."""
says_awaitable = partial(forms.says_awaitable, keeping=_JOURNAL)
"""Whether a function's annotation says that it gives something to await."""


class Form(forms.Form):
    """The JSON of one annotation's values, in a journal.

    Writing raises SagaValueRefused, and an annotation that JSON cannot carry SagaDefinitionError.
    """

    def __init__(self, annotation: Any, owner: str) -> None:
        super().__init__(annotation, owner, _JOURNAL)


@lru_cache(maxsize=4096)
def form_of_result(function: Callable[..., Any]) -> Form:
    """Give the form of what a function returns, by its annotation.

    Raises:
        SagaDefinitionError: it has none, or one that JSON cannot carry.
    """
    return Form(annotation_of_result(function), f"What {name_of(function)} returns")


@lru_cache(maxsize=4096)
def form_of_arguments(function: Callable[..., Any]) -> Form:
    """Give the form of the tuple of arguments that follow a function's first.

    Raises:
        SagaDefinitionError: one has no annotation, or one that JSON cannot carry, or it takes a variable number.
    """
    return Form(forms.annotation_of_arguments(function, _JOURNAL), f"The list of arguments of {name_of(function)}")


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
