"""Whether what a saga waits for has come, and whether it may be woken: conditions of statements about ``txp_saga``."""

from __future__ import annotations

import sqlalchemy as sa

from txpatterns.sagas.schema import Brought, Status, saga_lock_table, saga_signal_table, saga_table, saga_wait_table

_saga, _wait = saga_table.c, saga_wait_table.c
_signal, _lock = saga_signal_table.c, saga_lock_table.c
_child = saga_table.alias("child").c


def has_come() -> sa.ColumnElement[bool]:
    """Say that something has come that a saga waits for."""
    event = sa.and_(_signal.channel == _wait.channel, _signal.key == _wait.key, _signal.id > _wait.after)
    end = sa.and_(_child.type == _wait.channel, _child.id == _wait.key, _child.ended_at.is_not(None))
    held = sa.and_(_lock.saga == _wait.saga, _lock.name == _wait.key, _lock.held_at.is_not(None))
    return sa.or_(_waits(Brought.EVENT, event), _waits(Brought.CHILD, end), _waits(Brought.LOCK, held))


def can_be_woken() -> sa.ColumnElement[bool]:
    """Leave alone what a person decides about, and what has ended."""
    return sa.and_(_saga.ended_at.is_(None), sa.or_(_saga.status == Status.WAITING, _saga.due_at.is_not(None)))


def _waits(kind: Brought, comes: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(_wait.saga == _saga.number, _wait.kind == kind, comes)
