"""SIGTERM and SIGINT as an event: the first asks to stop, the second ends the process at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one has its ordinary effect.

    Outside the main thread, where Python allows no handlers, the event is never set by a signal. Plain handlers
    are used and not the loop's, because Windows has only those.
    """
    stopping = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def asked(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stopping.set)

    for number in _SIGNALS:
        signal.signal(number, asked)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
