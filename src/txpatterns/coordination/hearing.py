"""Being woken by what others commit: who is called for which word, and whether that is known to work."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import sqlalchemy as sa

from txpatterns.coordination.wakeup import checked
from txpatterns.database.database import Database
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns.wakeup")


class Hearing(ABC):
    """Calls, for each word that is heard, those who are registered for it, and knows whether it hears.

    They are all called when hearing begins, and when it is known to have ended: something may have been missed. What
    goes wrong is said once and tried again, and meanwhile polling goes on as without it.
    """

    def __init__(self, database: Database, longest_pause: timedelta) -> None:
        self._database = database
        self._calls: dict[str, list[Callable[[], None]]] = {}
        self._signs: dict[str, sa.Select[Any] | None] = {}
        self._longest_pause = longest_pause
        self._stopping = asyncio.Event()
        self._troubled = False
        self._random = Random()
        self._is_well = False
        self.checked = asyncio.Event()
        """Set whenever ``hears`` has been found out anew: tests wait for it."""

    @property
    def hears(self) -> bool:
        """Whether wake-ups are known to arrive."""
        return self._is_well

    def on(self, word: str, call: Callable[[], None], *, sign: sa.Select[Any] | None = None) -> None:
        """Register a part: ``call`` is made in the loop of ``run`` whenever the word is heard. It must not wait.

        ``sign`` selects one row that changes when there is something new for the part. On SQLite, where nobody says
        words, a change of it stands for the word; without one, every commit does.

        Raises:
            ValueError: the word is no plain name.
        """
        self._calls.setdefault(checked(word), []).append(call)
        if sign is not None or word not in self._signs:
            self._signs[word] = sign

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    async def run(self) -> None:
        """Hear until ``stop`` is called; what goes wrong is waited out."""
        try:
            await self._run()
        finally:
            self._deaf()

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                failures = 0 if await self._attend() else failures + 1
            except Exception as error:  # noqa: BLE001 - whatever it is, polling goes on
                failures = 0 if self._is_well else failures + 1
                self._trouble(error_line(error))
            pause = min(2.0 ** min(failures, 10), self._longest_pause.total_seconds())
            await self._database.clock.wait(
                self._stopping, timedelta(seconds=pause * (0.5 + self._random.random() / 2))
            )

    @abstractmethod
    async def _attend(self) -> bool:
        """Pass wake-ups on until that fails, or to the end; says whether any could come."""

    def _call(self, word: str) -> None:
        for call in self._calls.get(word, ()):
            try:
                call()
            except Exception:
                logger.exception("a wake-up failed; what there is to do will be found by polling")

    def _call_all(self) -> None:
        for word in self._calls:
            self._call(word)

    def _well(self) -> None:
        if self._troubled:
            logger.warning("wake-ups arrive again")
        self._troubled, self._is_well = False, True
        self.checked.set()

    def _trouble(self, what: str) -> None:
        if not self._troubled and not self._stopping.is_set():
            logger.warning("wake-ups do not arrive, new messages are found by polling: %s", what)
        self._troubled = True
        self._deaf()
        self.checked.set()

    def _deaf(self) -> None:
        """Nobody counts on being told any more; what was missed is looked for now."""
        if self._is_well:
            self._is_well = False
            self._call_all()
