"""Telling versions of a saga's code from each other: where one could not go on, another one may."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Set
from functools import partial
from hashlib import blake2b
from types import CodeType
from typing import Any

_MOST = 32
"""Deploys that one saga is kept from, so that it is not passed back and forth between those that run at once."""


def fingerprint_of(function: Callable[..., Any], build: str = "") -> str:
    """Tell versions of a function's text from each other, whatever its layout and comments are.

    Counted in are the functions and classes of the same module that it names, and those that these name: steps, calls,
    helpers, models. ``build`` tells deploys from each other whose code differs elsewhere.
    """
    texts: dict[str, str] = {}
    waiting: list[Any] = [inspect.unwrap(function)]
    while waiting:
        thing = waiting.pop()
        key = f"{thing.__qualname__} {type(thing).__name__}"
        if key in texts:
            continue
        texts[key], names = text_of(thing), _names_in(thing)
        scope = _scope_of(thing)
        waiting += [inspect.unwrap(scope[name]) for name in names if _is_of(scope.get(name), thing.__module__)]
    return mix(build, *(text for _, text in sorted(texts.items())))


def mix(*texts: str) -> str:
    """Tell texts from each other."""
    return blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def text_of(function: Callable[..., Any]) -> str:
    """Give a function's text without its layout and comments; where that is not to be had, what it is compiled to.

    The same in each process: neither addresses nor the order of sets are in it.
    """
    plain = inspect.unwrap(function)
    while isinstance(plain, partial):
        plain = inspect.unwrap(plain.func)
    if not (inspect.isroutine(plain) or inspect.isclass(plain)):
        plain = type(plain).__call__
    code = getattr(plain, "__code__", None)
    if plain.__name__ == "<lambda>":  # the lines that it has may be parts of others
        return _compiled(code)
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(plain))))
    except (OSError, TypeError, SyntaxError):  # it was typed in, or made by other code
        return plain.__qualname__ if code is None else _compiled(code)


def _compiled(const: object) -> str:
    match const:
        case CodeType():
            return " ".join([repr(const.co_code), repr(const.co_names), *map(_compiled, const.co_consts)])
        case frozenset():
            return f"{{{', '.join(sorted(map(_compiled, const)))}}}"
        case tuple():
            return f"({', '.join(map(_compiled, const))})"
    return repr(const)


def stopped_with(before: str | None, fingerprint: str) -> str:
    """Add a fingerprint to those of the code that could not go on; only the last ones are kept."""
    return " ".join([*(before or "").split(), fingerprint][-_MOST:])


def _names_in(thing: Any) -> Set[str]:
    """Give what a function or a class names."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):  # it was typed in, or made by other code
        return frozenset(getattr(getattr(thing, "__code__", None), "co_names", ()))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _scope_of(thing: Any) -> Mapping[str, Any]:
    """Give what the names in a function or a class may mean."""
    plain = getattr(thing, "__func__", thing)
    scope = dict(getattr(plain, "__globals__", None) or vars(sys.modules.get(thing.__module__, object)))
    for name, cell in zip(_free_names(plain), getattr(plain, "__closure__", None) or (), strict=False):
        try:
            scope[name] = cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
    return scope


def _free_names(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return () if code is None else code.co_freevars


def _is_of(found: object, module: str) -> bool:
    """Whether something is a function or a class of a module's own."""
    return (inspect.isfunction(found) or inspect.isclass(found)) and found.__module__ == module
