"""A transaction and its branches, as whoever began it, or owns it, knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import RowMapping

from txpatterns.errors import LeaseLost
from txpatterns.tcc.schema import Operation, State, Status
from txpatterns.tcc.transactions import Instance


@dataclass(frozen=True, slots=True)
class Beginning:
    """A transaction that its first try's commit begins."""

    app: str
    id: str
    token: str
    """What only the one who begins it knows."""
    timeout: timedelta
    headers: Mapping[str, str]

    @property
    def xid(self) -> str:
        """What tells it from all others."""
        return f"{self.app}/{self.id}"


@dataclass(frozen=True, slots=True)
class Held:
    """A transaction that this process may decide, or bring to its end, at an epoch of its own."""

    number: int
    instance: Instance
    status: Status
    owner: str
    epoch: int = 0
    """0: it is held by whoever began it."""
    crashes: int = 0
    attention: str | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """One participant's part in a transaction."""

    branch: str
    participant: str
    args: str
    state: State
    result: str | None = None
    attempts: int = 0

    def asked(self, status: Status) -> Operation | None:
        """Say what it is to be asked for once the transaction is decided; None: nothing is left to do.

        Of one of which nobody knows whether it has reserved anything that is given back, whatever is decided.
        """
        if self.state == State.TRYING:
            return Operation.CANCEL
        if self.state != State.TRIED:
            return None
        return Operation.CONFIRM if status in (Status.CONFIRMING, Status.CONFIRMED) else Operation.CANCEL


def lost(held: Held) -> LeaseLost:
    """Give the error of whoever has a transaction that another has claimed since."""
    return LeaseLost(f"Another process goes on with {held.instance.id}.")


def held_of(row: RowMapping | Mapping[str, Any]) -> Held:
    """Read a row as whoever claims the transaction does."""
    instance = Instance(row["app"], row["id"], row["started_at"], row["expires_at"], json.loads(row["headers"]))
    return Held(
        row["number"],
        instance,
        Status(row["status"]),
        row["owner"] or "",
        row["epoch"],
        row["crashes"],
        row["attention"],
    )
