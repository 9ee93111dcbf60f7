"""Noticing that the process was forked: sockets, leases and threads belong to the parent alone."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forgets(Protocol):
    """Something that must not go on in a forked child with what it shares with its parent."""

    def after_fork(self) -> None:
        """Forget connections, tasks and threads without closing them: they are the parent's."""


_kept: WeakSet[Forgets] = WeakSet()


def forget_after_fork(thing: Forgets) -> None:
    """Call ``thing.after_fork()`` in every child that this process forks."""
    _kept.add(thing)


def _in_child() -> None:
    for thing in list(_kept):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_in_child)
