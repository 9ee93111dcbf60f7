"""What travels with a call beside its request: its story, its trace, and how much time is left for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from opentelemetry import context as tracing

from shop.calls import DEADLINE, TRACE, carried
from shop.problems import Problem
from txpatterns.correlation import CORRELATION_ID, correlated

_ends_at: ContextVar[float | None] = ContextVar("shop_call_ends_at", default=None)


def metadata() -> tuple[tuple[str, str], ...]:
    """Give the metadata of a call that is made here."""
    return tuple(carried().items())


def time_left() -> float:
    """Give the seconds that a call which is made here may take: what is left of the call that it serves, at most.

    Raises:
        Problem: ``timeout`` when nothing is left.
    """
    end = _ends_at.get()
    left = DEADLINE if end is None else min(DEADLINE, end - asyncio.get_running_loop().time())
    if left <= 0:
        raise Problem("timeout", "There was no time left to ask.")
    return left


@contextmanager
def arrived(given: Iterable[tuple[str, str | bytes]], seconds: float) -> Iterator[None]:
    """Handle a call inside: in its story, its trace, and the time that it has."""
    brought = {name: value for name, value in given if isinstance(value, str)}
    with ExitStack() as stack:
        if CORRELATION_ID in brought:
            stack.enter_context(correlated(brought[CORRELATION_ID]))
        stack.callback(tracing.detach, tracing.attach(TRACE.extract(brought)))
        stack.callback(_ends_at.reset, _ends_at.set(asyncio.get_running_loop().time() + seconds))
        yield
