"""Statements that are made once: a start, and what most writes are on PostgreSQL, each guarded by its epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from txpatterns.database.dialects import insert_into, moment, now_plus
from txpatterns.sagas.schema import saga_journal_table, saga_table

_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "number": sa.BigInteger(),
    "epoch": sa.BigInteger(),
    "run": sa.Integer(),
    "n": sa.Integer(),
    "facts": sa.Text(),
    "status": sa.Text(),
    "due": sa.Float(),
    "is_owned": sa.Boolean(),
    "is_end": sa.Boolean(),
    "attention": sa.Text(),
    "diverged": sa.Text(),
    "error": sa.Text(),
    "result": sa.Text(),
}
"""What is given of each write. Where the saga stays as it stands, its status is NULL."""


def parameters(rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Give the statement's parameters: rows of these columns, and the database's clock as ``Database.seconds`` does."""
    return {"now": seconds, **{f"all_{name}": [row[name] for row in rows] for name in _TYPES}}


def _statement(*, waits: bool) -> sa.Select[tuple[int]]:
    arrays = [sa.bindparam(f"all_{name}", type_=ARRAY(type_)) for name, type_ in _TYPES.items()]
    columns = [sa.column(name, type_) for name, type_ in _TYPES.items()]
    given = sa.select(sa.func.unnest(*arrays).table_valued(*columns, name="rows").render_derived()).cte("given")
    saga, g = saga_table.c, given.c
    fits = sa.and_(saga.number == g.number, saga.epoch == g.epoch)
    mine = sa.select(saga.number).join(given, fits).order_by(saga.number)
    locked = mine.with_for_update(key_share=True, skip_locked=not waits, of=saga_table).cte("mine")
    now = now_plus(sa.bindparam("now", type_=sa.Float))
    facts = sa.select(g.number, g.run, g.n, g.facts, now).join(locked, locked.c.number == g.number)
    noted = sa.insert(saga_journal_table).from_select(
        ["saga", "run", "n", "facts", "at"], facts.where(g.facts.is_not(None))
    )
    stood = (
        sa.update(saga_table)
        .where(saga.number == g.number, g.number == locked.c.number, g.status.is_not(None))
        .values(
            status=g.status,
            due_at=sa.case((g.due.is_(None), None), else_=now_plus(sa.bindparam("now", type_=sa.Float) + g.due)),
            attention=g.attention,
            crashes=sa.literal_column("0"),
            owner=sa.case((g.is_owned, saga.owner), else_=None),
            diverged=sa.func.nullif(sa.func.coalesce(g.diverged, saga.diverged), sa.literal_column("''")),
            error=sa.func.coalesce(g.error, saga.error),
            result=sa.func.coalesce(g.result, saga.result),
            ended_at=sa.case((g.is_end, now), else_=saga.ended_at),
        )
    )
    return sa.select(locked.c.number).add_cte(noted.cte("noted"), stood.cte("stood"))


WRITE = _statement(waits=True)
"""Writes for the sagas of its rows that still belong to those who claimed them at these epochs; gives their numbers."""

WRITE_UNLOCKED = _statement(waits=False)
"""The same, but for those whose rows somebody has locked."""

_GIVEN = (
    *("type", "id", "version", "status", "args", "digest", "headers", "run", "owner", "epoch"),
    *("parent", "parent_path"),
)
_UNTIL = sa.case((sa.cast(sa.bindparam("until"), sa.Float).is_(None), sa.null()), else_=moment("until"))
_TIMES = {"started_at": moment("now"), "due_at": moment("now"), "deadline_at": _UNTIL}
START = {
    on_sqlite: insert_into(saga_table, on_sqlite=on_sqlite)
    .values({**{name: sa.bindparam(name) for name in _GIVEN}, **_TIMES})
    .on_conflict_do_nothing()
    .returning(saga_table.c.number, saga_table.c.started_at)
    for on_sqlite in (False, True)
}
"""Begins a saga, if there is none with its type and id; on PostgreSQL, and on SQLite. Gives its number and its time."""
