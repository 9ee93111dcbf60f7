"""Statements that are made once: making one costs several times what running it does."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from txpatterns.database.dialects import insert_into, moment
from txpatterns.tcc.schema import State, Status, tcc_branch_table, tcc_table

_tcc, _branch = tcc_table.c, tcc_branch_table.c
_BRANCH = ("xid", "branch", "participant", "args", "state")


def parameters_of_branch(**values: object) -> dict[str, Any]:
    """Name what a branch is made of as the statements do."""
    return {f"branch_{name}": values[name] for name in _BRANCH}


def _given() -> list[sa.ColumnElement[Any]]:
    return [sa.bindparam(f"branch_{name}", type_=_branch[name].type).label(name) for name in _BRANCH]


def _begin(*, on_sqlite: bool) -> Any:
    until, now = moment("until"), moment("now")
    texts: dict[str, Any] = {name: sa.bindparam(name) for name in ("app", "id", "owner", "headers")}
    times = {"due_at": until, "expires_at": until, "started_at": now}
    insert = insert_into(tcc_table, on_sqlite=on_sqlite).values(status=Status.TRYING.value, **texts, **times)
    return insert.on_conflict_do_nothing().returning(_tcc.number, _tcc.started_at, _tcc.expires_at)


def _begin_with_branch() -> sa.Select[Any]:
    begun = _begin(on_sqlite=False).cte("begun")
    branch = sa.insert(tcc_branch_table).from_select(list(_BRANCH), sa.select(*_given()).select_from(begun))
    return sa.select(begun.c.number, begun.c.started_at, begun.c.expires_at).add_cte(branch.cte("branched"))


BEGIN_ON_SQLITE = _begin(on_sqlite=True)
"""Begins a transaction, if there is none with its id; gives its number and its times."""
BEGIN = _begin_with_branch()
"""The same with its first branch."""
BRANCH = sa.insert(tcc_branch_table).values({name: sa.bindparam(f"branch_{name}") for name in _BRANCH})

_TRIES = sa.select(_tcc.number).where(
    _tcc.number == sa.bindparam("number"),
    _tcc.owner == sa.bindparam("owner"),
    _tcc.status == Status.TRYING.value,
    _tcc.expires_at > moment("now"),
)
STILL_TRIES = _TRIES
"""Finds a transaction that is not decided, and has time left."""
STILL_TRIES_LOCKED = _TRIES.with_for_update(read=True)
_locked = STILL_TRIES_LOCKED.cte("mine")
JOIN = (
    sa.insert(tcc_branch_table)
    .from_select(list(_BRANCH), sa.select(*_given()).select_from(_locked))
    .returning(_branch.branch)
)
"""Adds a branch to such a one. Nobody decides before its commit: a cancel that had not seen it would forget it."""

RESULT = (
    sa.update(tcc_branch_table)
    .where(_branch.xid == sa.bindparam("its_xid"), _branch.branch == sa.bindparam("its_branch"))
    .values(result=sa.bindparam("what"), state=sa.bindparam("now_state"))
)

_UNTIL = sa.case((sa.cast(sa.bindparam("until"), sa.Float).is_(None), sa.null()), else_=moment("until"))
_ENDED = sa.case((sa.cast(sa.bindparam("ends"), sa.Float).is_(None), sa.null()), else_=moment("ends"))
MOVE = (
    sa.update(tcc_table)
    .where(
        _tcc.number == sa.bindparam("its_number"),
        _tcc.epoch == sa.bindparam("its_epoch"),
        _tcc.status == sa.bindparam("was"),
    )
    .values(
        status=sa.bindparam("becomes"),
        owner=sa.bindparam("held_by"),
        due_at=_UNTIL,
        ended_at=_ENDED,
        attention=sa.bindparam("flag"),
        crashes=sa.bindparam("deaths"),
    )
    .returning(_tcc.number)
)
"""Moves a transaction on, if nobody has claimed it since, and it stands where it stood: the guard of every decision."""

MARK = (
    sa.update(tcc_branch_table)
    .where(
        _branch.xid == sa.bindparam("its_xid"),
        _branch.branch == sa.bindparam("its_branch"),
        _branch.state.in_([State.TRYING.value, State.TRIED.value]),
    )
    .values(state=sa.bindparam("now_state"), error=sa.null())
    .returning(_branch.branch)
)
"""Moves a branch on, if that was not done: a commit whose answer was lost is repeated, and must find that."""


def _move_and_mark() -> sa.Select[Any]:
    mine = MOVE.cte("mine")
    mark = MARK.where(sa.exists(sa.select(mine.c.number))).cte("marked")
    return sa.select(mine.c.number, mark.c.branch).select_from(mine.outerjoin(mark, sa.true()))


MOVE_AND_MARK = _move_and_mark()
"""Both, the second only where the first has found its transaction."""
