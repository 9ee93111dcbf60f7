"""TCC transactions in the hands of a test: where one stands, and which were left open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from txpatterns.admin.tcc import find_tcc
from txpatterns.app import App
from txpatterns.tcc.queues import ACTIVE
from txpatterns.testing.remains import Left, Look


@dataclass(frozen=True, slots=True)
class TccSeen:
    """Where a transaction stood when it was looked at."""

    id: str
    status: str
    """``trying``, ``confirming``, ``cancelling``, ``confirmed`` or ``cancelled``."""
    branches: Sequence[tuple[str, str]]
    """Each participant that was asked, with where its part stands, in the order of the tries."""
    attention: str | None
    """Why a person should look at it."""


async def see_tcc(app: App, id: str) -> TccSeen | None:
    """See where a transaction of an App stands; None: it has none with this id."""
    found = await app.database.read(partial(find_tcc, database=app.database, id=id, app=app.name))
    if found is None:
        return None
    branches = [(branch.participant, branch.state) for branch in found.branches]
    return TccSeen(found.entry.id, found.entry.status, branches, found.entry.attention)


def open_tcc(looks: Sequence[Look]) -> Iterator[Left]:
    """Give the transactions among what was left when it was last looked."""
    return (left for look in looks for left in look.left if left.queue == ACTIVE.figure)
