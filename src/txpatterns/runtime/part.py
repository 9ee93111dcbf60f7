"""What a background part is, for whoever starts, watches and stops it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from txpatterns.database.database import Database


class Drain:
    """One wish that parts bring to an end what there is to do, the same for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moment: datetime | None = None

    async def moment(self) -> datetime:
        """Give the moment up to which something counts as due: by the database's clock, when this is first asked."""
        if self._moment is None:
            self._moment = await self._database.moment()
        return self._moment


@dataclass(frozen=True, slots=True)
class Part:
    """A background part: it runs until it is stopped. What it does not say of itself is left out."""

    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None]
    heard: Callable[[], float] | None = None
    """When it last made progress; without it, a part counts as getting on for as long as it runs."""
    attention: Callable[[], Sequence[str]] = tuple
    """What a person should look at, in words."""
    postponed: Callable[[], Mapping[str, str]] = dict
    """The topics that take nothing from it now, each with the reason."""
    wake: Callable[[], bool] | None = None
    """Something was committed, in any thread; says whether no other process needs to know of that."""
    drained: Callable[[Drain], Awaitable[bool]] | None = None
    """Waits until it has done what is due; says whether that may have given something to do to other parts."""
