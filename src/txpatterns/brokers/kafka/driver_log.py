"""Where the driver writes what it has to say: Python's log, without the flood."""

from __future__ import annotations

import logging
from datetime import timedelta

from txpatterns.clock import Clock

logger = logging.getLogger("txpatterns.kafka")

_AGAIN = timedelta(minutes=1)


class DriverLog:
    """Passes the driver's lines on; that a server cannot be reached, once a minute for each connection.

    The driver says it at every try, many times a second. What is held back here can be read at level DEBUG.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def log(self, level: int, pattern: str, facility: str, client: str, text: str) -> None:
        """Called by the driver, in whichever thread polls."""
        chosen_by_us = facility == "CONFWARN" and "enable.gapless.guarantee" in text
        if chosen_by_us or (facility == "FAIL" and self._was_said(text.partition("]")[0])):
            level = logging.DEBUG
        logger.log(level, pattern, facility, client, text)

    def _was_said(self, connection: str) -> bool:
        now = self._clock.monotonic()
        if now - self._said.get(connection, float("-inf")) < _AGAIN.total_seconds():
            return True
        self._said[connection] = now
        return False
