"""Planting a bug: something else in the place of a method or function of the library."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
R = TypeVar("R")


def instead_of(
    patch: pytest.MonkeyPatch, owner: object, real: Callable[P, R]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put what is decorated in the place of ``real``, a function of ``owner``.

    mypy sees that it takes and gives the same: a bug that is called in a way it does not know turns tests red for the
    wrong reason.
    """

    def put(other: Callable[P, R]) -> Callable[P, R]:
        patch.setattr(owner, real.__name__, other)
        return other

    return put
