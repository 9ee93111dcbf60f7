"""A server for one test, or for one file of tests, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest

from rig.lookup import Missing
from rig.servers.base import Server
from rig.watchdog import Watchdog

S = TypeVar("S", bound=Server)


@contextmanager
def started(kind: type[S]) -> Iterator[S]:
    """Start a server, and end it after; the test is skipped where its programs are not to be had."""
    with ExitStack() as stack:
        watchdog = Watchdog()
        stack.callback(watchdog.close)
        try:
            server = kind.take(watchdog)
        except Missing as missing:
            pytest.skip(str(missing))
        stack.callback(server.close)
        server.start()
        yield server
