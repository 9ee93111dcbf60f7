"""Several sources of ids, one behind the other: when the first has none, the next is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from txpatterns.errors import ConfigurationError, IdsUnavailable
from txpatterns.hooks import HookList, Hooks
from txpatterns.ids.moments import IdSourceChanged
from txpatterns.runtime.forks import forget_after_fork

logger = logging.getLogger("txpatterns.ids")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class IdSource(Protocol[T_co]):
    """What makes ids."""

    def next_id(self) -> T_co:
        """Make one. Raises IdsUnavailable."""

    def prepare(self) -> None:
        """Get ready in the background, so that the first id need not wait."""


class IdChain(Generic[T]):
    """Takes each id from the first of its sources that has one.

    For example: ``IdChain(app.ids, DatabaseBlocks(app.database), Uuid7())``. No two of these sources make the same id.
    `DatabaseBlocks` go on while the machine's clock is wrong; `Uuid7` always, but its ids are of another type, so what
    stores them must have room. All sources are made ready with the first id. Each change of the source is logged once,
    and told as `IdSourceChanged`.

    Raises:
        ConfigurationError: there are no sources.
    """

    def __init__(self, *sources: IdSource[T], hooks: HookList | Hooks | Sequence[Hooks] | None = None) -> None:
        if not sources:
            raise ConfigurationError("This chain has no sources.", fix="IdChain(app.ids, Uuid7())")
        self._sources = sources
        self._hooks = HookList.of(hooks)
        self._place: int | None = None
        self._lock = threading.Lock()
        forget_after_fork(self)

    def next_id(self) -> T:
        """Make an id.

        Raises:
            IdsUnavailable: no source has one; the text has each one's reason.
        """
        if self._place is None:
            self.prepare()
        reasons: list[str] = []
        for place, source in enumerate(self._sources):
            try:
                made = source.next_id()
            except IdsUnavailable as error:
                reasons.append(error.message)
            else:
                if place != self._place:
                    self._changed(place, " ".join(reasons))
                return made
        raise IdsUnavailable(" ".join(reasons))

    def prepare(self) -> None:
        """Make all sources ready."""
        for source in self._sources:
            source.prepare()

    def after_fork(self) -> None:
        """In a forked child: all sources begin anew."""
        self._lock = threading.Lock()
        self._place = None

    def _changed(self, place: int, reason: str) -> None:
        with self._lock:
            before, self._place = self._place, place
        if before == place or (before is None and place == 0):
            return
        name = type(self._sources[place]).__name__
        if place:
            logger.warning("ids come from %s now: %s", name, reason)
        else:
            logger.warning("ids come from %s again", name)
        self._hooks.tell(IdSourceChanged(name, place, reason))
