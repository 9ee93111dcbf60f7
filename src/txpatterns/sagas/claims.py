"""A saga as whoever starts it, or owns it, knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from txpatterns.errors import LeaseLost
from txpatterns.sagas.schema import Status


@dataclass(slots=True)
class Start:
    """A saga that its transaction's commit begins."""

    type: str
    id: str
    version: int
    args: str
    digest: str
    headers: Mapping[str, str]
    parent: int | None = None
    """The number of the saga that starts it."""
    parent_path: str | None = None
    """Of the operation there that waits for it: behind the number of that run, if it is not the first."""
    deadline: timedelta | None = None
    """How long after its start it is undone if it is before its pivot then."""
    claimed: Claimed | None = None
    """The saga as this process owns it from the commit on; None: it is to be claimed, or was there already."""
    has_begun_here: bool = False
    """Whether that is committed, and an engine of this process runs it."""

    def is_begun_by(self, parent: int | None, parent_path: str | None) -> bool:
        """Whether a saga that was begun like that may be this one: a child is one of its parent's run."""
        return self.parent is None or (self.parent, _run(self.parent_path)) == (parent, _run(parent_path))


def path_in(run: int, path: str) -> str:
    """Give the place of an operation among all runs of its saga."""
    return path if run == 1 else f"{run}/{path}"


def _run(place: str | None) -> str:
    return (place or "").rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A saga that this process owns, at an epoch of its own."""

    number: int
    type: str
    id: str
    version: int
    run: int
    status: Status
    epoch: int
    crashes: int
    attention: str | None
    diverged: str | None
    """The fingerprints of the code that could not go on from where it stands."""
    args: str
    headers: Mapping[str, str]
    started_at: datetime
    deadline_at: datetime | None
    claimed_at: datetime
    """By the database's clock, as all times."""
    parent: int | None = None
    """The number of the saga that waits for its end."""


def lost(saga: Claimed) -> LeaseLost:
    """Give the error of whoever has a saga that another has claimed since."""
    return LeaseLost(f"Another process goes on with {saga.id}.")


def claimed_of(row: Mapping[Any, Any]) -> Claimed:
    """Read a row, with the time ``now``, as whoever claims the saga does."""
    return Claimed(
        number=row["number"],
        type=row["type"],
        id=row["id"],
        version=row["version"],
        run=row["run"],
        status=Status(row["status"]),
        epoch=row["epoch"],
        crashes=row["crashes"],
        attention=row["attention"],
        diverged=row["diverged"],
        args=row["args"],
        headers=json.loads(row["headers"]),
        started_at=row["started_at"],
        deadline_at=row["deadline_at"],
        claimed_at=row["now"],
        parent=row["parent"],
    )
