"""What a saga has to do with others, in words: who has started it, and what becomes of what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.sagas.schema import Brought, saga_table, saga_wait_table

_saga, _wait = saga_table.c, saga_wait_table.c


@dataclass(frozen=True, slots=True)
class Relations:
    """A saga among others."""

    parent: str | None
    """The saga that has started it and waits for its end."""
    waits: Mapping[str, str]
    """What becomes of what it waits for, by the path of the operation that waits."""


def relations_of(connection: Connection, number: int) -> Relations:
    """Say what a saga has to do with others."""
    return Relations(_parent(connection, number), _children(connection, number))


def _parent(connection: Connection, number: int) -> str | None:
    parent = saga_table.alias("parent").c
    query = sa.select(parent.type, parent.id, _saga.parent_path).where(_saga.number == number)
    row = connection.execute(query.where(parent.number == _saga.parent)).mappings().first()
    return None if row is None else f"{row['type']} {row['id']}, at {row['parent_path']}"


def _children(connection: Connection, number: int) -> dict[str, str]:
    wait = (_wait.saga == number, _wait.kind == Brought.CHILD)
    query = sa.select(_wait.path, _saga.status, _saga.attention).where(*wait)
    found = connection.execute(query.where(_saga.type == _wait.channel, _saga.id == _wait.key)).mappings()
    return {row["path"]: _standing(row) for row in found}


def _standing(row: RowMapping) -> str:
    return f"it is {row['status']}" + (" and needs a person" if row["attention"] else "")
