"""What a saga has to do with others, in words: who has started it, and what becomes of what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from txpatterns.sagas.schema import Brought, saga_lock_table, saga_table, saga_wait_table

_saga, _wait, _lock = saga_table.c, saga_wait_table.c, saga_lock_table.c
_queue = saga_lock_table.alias("queue").c


@dataclass(frozen=True, slots=True)
class Relations:
    """A saga among others."""

    parent: str | None
    """The saga that has started it and waits for its end."""
    waits: Mapping[str, str]
    """What becomes of what it waits for, by the path of the operation that waits."""
    holds: Sequence[str]
    """The locks that it has."""


def relations_of(connection: Connection, number: int) -> Relations:
    """Say what a saga has to do with others."""
    waits = _children(connection, number) | _locks(connection, number)
    return Relations(_parent(connection, number), waits, _held(connection, number))


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


def _locks(connection: Connection, number: int) -> dict[str, str]:
    """Say who has the locks that it waits for, and how many wait for them before it."""
    before = sa.select(sa.func.count()).where(_queue.name == _lock.name, _queue.id < _lock.id, _queue.held_at.is_(None))
    mine = sa.select(_lock.path, _lock.name, before.scalar_subquery().label("before"))
    found: dict[str, str] = {}
    for row in connection.execute(mine.where(_lock.saga == number, _lock.held_at.is_(None))).mappings():
        has = sa.select(_saga.type, _saga.id, _lock.held_at).where(
            _lock.name == row["name"], _lock.held_at.is_not(None)
        )
        holder = connection.execute(has.where(_saga.number == _lock.saga)).mappings().first()
        who = "nobody has it" if holder is None else f"{holder['type']} {holder['id']} has it since {holder['held_at']}"
        found[row["path"]] = f"{who}, {row['before']} wait before this one"
    return found


def _held(connection: Connection, number: int) -> list[str]:
    """Say which locks it has, and how many wait for each."""
    waiting = sa.select(sa.func.count()).where(_queue.name == _lock.name, _queue.held_at.is_(None))
    mine = sa.select(_lock.name, _lock.held_at, waiting.scalar_subquery().label("waiting"))
    held = connection.execute(
        mine.where(_lock.saga == number, _lock.held_at.is_not(None)).order_by(_lock.id)
    ).mappings()
    return [f"{row['name']}, since {row['held_at']}; {row['waiting']} wait for it" for row in held]
