"""Waits of real time that no clock of a test can move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

_ANY_NUMBER = 1_000_000


@contextmanager
def switched_off() -> Iterator[None]:
    """Let calls be made again at once, as often as ever, where stamina is installed."""
    stamina = import_module("stamina") if find_spec("stamina") else None
    if stamina is None or stamina.is_testing():
        yield
        return
    with stamina.set_testing(True, attempts=_ANY_NUMBER, cap=True):
        yield
