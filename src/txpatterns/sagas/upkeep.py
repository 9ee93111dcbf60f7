"""What is done about sagas from time to time: waking what was not woken, and forgetting what is old."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy.engine import Connection

from txpatterns.sagas.settings import SagaSettings
from txpatterns.sagas.store import SagaStore

logger = logging.getLogger("txpatterns")

T = TypeVar("T")


class Transact(Protocol):
    """Does some work in a transaction of the library's own, however often that takes."""

    async def __call__(self, work: Callable[[Connection], T]) -> T:
        """Do it; gives what it gives."""


class Upkeep:
    """Cares for the tables of sagas. Each engine does; what one has done the next finds done."""

    def __init__(self, store: SagaStore, settings: SagaSettings, transact: Transact) -> None:
        self._store = store
        self._settings = settings
        self._transact = transact

    async def sweep(self) -> None:
        """Wake what should have been woken, and forget what is old."""
        if count := await self._transact(self._store.signals.sweep):
            logger.warning("%d sagas slept although what they wait for was there; they are woken", count)
        if count := await self._transact(self._store.locks.sweep):
            logger.warning("%d sagas had ended and kept their locks; they are free now", count)
        await self._transact(partial(self._store.signals.clean, older_than=self._settings.keep_signals))
        await self._transact(partial(self._store.clean, older_than=self._settings.keep_ended))
