"""What the functions of a step list take: what leads them, the saga's argument, and former results by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from txpatterns.errors import SagaDefinitionError
from txpatterns.inbox.signatures import leaves
from txpatterns.sagas.values import hints_of, name_of

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def results_taken(function: Callable[..., Any], leading: Mapping[str, Any], former: Mapping[str, Any]) -> list[str]:
    """Give the names of the former results that a function takes, in its order.

    ``leading`` are the annotations of what it is given first, by what they are called in an error; ``former`` those of
    the results that there are by then, by name. What has a default and no such name keeps it.

    Raises:
        SagaDefinitionError: it takes something else, or something more.
    """
    called, hints = name_of(function), hints_of(function)
    parameters = _parameters(function)
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    if len(positional) < len(leading):
        raise SagaDefinitionError(f"{called} takes {len(positional)} arguments; it is given {' and '.join(leading)}.")
    for (what, given), parameter in zip(leading.items(), positional, strict=False):
        if not accepts(hints.get(parameter.name, Any), given):
            raise SagaDefinitionError(
                f"{called} takes {_shown(hints[parameter.name])} as {parameter.name}; it is given {what}.",
                fix=f"Write: {parameter.name}: {_shown(given)}",
            )
    taken: list[str] = []
    left_out: inspect.Parameter | None = None
    for parameter in [each for each in parameters if each not in positional[: len(leading)]]:
        name = parameter.name
        if name in former and parameter.kind in _POSITIONAL and left_out is None:
            if not accepts(hints.get(name, Any), former[name]):
                raise SagaDefinitionError(
                    f"{called} takes {_shown(hints[name])} as {name}; {name} gives {_shown(former[name])}.",
                    fix=f"Write: {name}: {_shown(former[name])}",
                )
            taken.append(name)
        elif parameter.default is parameter.empty or name in former:
            raise _unknown(called, parameter, former)
        else:
            left_out = parameter
    return taken


def check_same(function: Callable[..., Any], first: type, of: Callable[..., Any], count: int) -> None:
    """Check that what undoes or probes something can be called as that is, with a first argument of its own.

    ``count`` is how many results it takes.

    Raises:
        SagaDefinitionError: it cannot.
    """
    called, parameters = name_of(function), _parameters(function)
    try:
        inspect.signature(function).bind(*[None] * (2 + count))
    except TypeError as error:
        raise SagaDefinitionError(
            f"{called} cannot be called as {name_of(of)} is: {error}.",
            fix=f"It takes a {first.__name__}, and then the same arguments.",
        ) from error
    if not accepts(hints_of(function).get(parameters[0].name, Any), first):
        raise SagaDefinitionError(f"{called} takes no {first.__name__} first.", fix=f"Write: {first.__name__}")


def accepts(parameter: Any, given: Any) -> bool:
    """Whether a parameter takes all that another annotation stands for. What cannot be told is taken for right."""
    if parameter in (Any, object) or parameter == given:
        return True
    options = list(leaves(parameter))
    return all(any(_fits(option, member) for option in options) for member in leaves(given))


def _fits(option: Any, member: Any) -> bool:
    wanted, has = get_origin(option) or option, get_origin(member) or member
    if not (isinstance(wanted, type) and isinstance(has, type)) or getattr(wanted, "_is_protocol", False):
        return True
    if wanted is has:
        ours, theirs = get_args(option), get_args(member)
        return len(ours) != len(theirs) or all(map(accepts, ours, theirs))
    return issubclass(has, wanted) or (wanted is float and has is int)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as error:  # written in another language, which does not tell
        raise SagaDefinitionError(
            f"{name_of(function)} does not say what it takes.", fix="Put a def of your own around it."
        ) from error


def _unknown(called: str, parameter: inspect.Parameter, former: Mapping[str, Any]) -> SagaDefinitionError:
    name = parameter.name
    if name in former or parameter.kind not in _POSITIONAL:
        return SagaDefinitionError(
            f"{called} takes {parameter}.", fix="Take each result by its own name, before what has a default."
        )
    known = ", ".join(former) or "none"
    near = get_close_matches(name, former, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return SagaDefinitionError(
        f"{called} takes {name}, which no step before it gives; there are: {known}.",
        fix=f"{hint}Behind the saga's argument stand the names of steps before, whose results are wanted.",
    )


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
