"""A branch of a saga's code: a coroutine that is resumed by hand, with numbers of its own for what it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from txpatterns.causes import place_among
from txpatterns.sagas.operations import Suspended

_CLOSED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Value:
    """An operation or the code has come to this."""

    value: object


@dataclass(frozen=True, slots=True)
class Error:
    """An operation or the code has raised this."""

    error: BaseException


Outcome = Value | Error
Then = Callable[[Outcome], None]
"""What an outcome is told to."""


class BrokenRule(Exception):
    """The code has done what no journal can hold; ends the turn."""


class Strand:
    """A coroutine in a branch of its own, and what its end is told to."""

    __slots__ = ("_count", "_prefix", "coroutine", "then")

    def __init__(self, coroutine: Any, prefix: str, then: Then) -> None:
        self.coroutine = coroutine
        self.then = then
        self._prefix = prefix
        self._count = 0

    def draw(self) -> str:
        """Take the next place in this branch; gives its path."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def resume(self, outcome: Outcome) -> object:
        """Run the coroutine on; gives what it yields, and raises what it raises."""
        if isinstance(outcome, Value):
            return self.coroutine.send(outcome.value)
        return self.coroutine.throw(outcome.error)

    def close(self) -> list[str]:
        """Close the coroutine, again if it goes on; gives in words what could not be closed, or what it raised."""
        name = self.coroutine.__qualname__
        for _ in range(_CLOSED_AT_MOST):
            try:
                self.coroutine.close()
            except (Suspended, GeneratorExit):
                return []
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - the code is put away, whatever it says to that
                if not (isinstance(error, RuntimeError) and "ignored GeneratorExit" in str(error)):
                    return [f"{name} raised {error!r} while it was put away"]
            else:
                return []
        return [f"{name} goes on when it is put away: it catches BaseException at {self.place()}"]

    def place(self) -> str:
        """Say where in the user's own code it waits: file, line and function."""
        return place_among([each.cr_frame for each in self._coroutines() if each.cr_frame is not None])

    def awaited(self, yielded: object) -> str:
        """Name what it awaits, which has yielded this: the first thing that is not the user's own code."""
        for each in self._coroutines():
            awaited = each.cr_await
            if inspect.iscoroutine(awaited) and (awaited.cr_frame is None or not place_among([awaited.cr_frame])):
                return awaited.__qualname__
        return type(yielded).__name__

    def _coroutines(self) -> Iterator[Any]:
        inner = self.coroutine
        while inspect.iscoroutine(inner):
            yield inner
            inner = inner.cr_await
