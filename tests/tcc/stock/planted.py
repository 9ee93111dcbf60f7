"""Bugs to plant in stock: each takes one guard out, and names the test that must turn red for it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from rig.planting import instead_of
from tcc.stock import test_contract, test_redis, test_sql
from txpatterns.tcc.stock import Decision, State, Stock, expiry, limits
from txpatterns.tcc.stock.contract import Lines
from txpatterns.tcc.stock.ledger import Held, Kept, Settled
from txpatterns.tcc.stock.ledger_sql import SqlLedger
from txpatterns.tcc.stock.redis import RedisStock, connections, scripts
from txpatterns.tcc.stock.redis import stock as in_redis
from txpatterns.tcc.stock.redis.scripts import Script
from txpatterns.tcc.stock.sql_store import SqlStore


@dataclass(frozen=True)
class Bug:
    """``plant`` is given pytest's monkeypatch; ``shows`` is a test; ``on`` is the stock that it is given, if any."""

    plant: Callable[[pytest.MonkeyPatch], None]
    shows: Callable[..., Awaitable[None]]
    on: str = "sqlite"
    given: tuple[tuple[str, object], ...] = ()


def _changed(patch: pytest.MonkeyPatch, script: Script, *changes: tuple[str, str]) -> None:
    text = script.text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    sha = hashlib.sha1(text.encode()).hexdigest()
    patch.setattr(in_redis, script.name.upper(), replace(script, text=text, sha=sha))


def no_number(patch: pytest.MonkeyPatch) -> None:
    """H178: only the generation is compared."""
    _changed(patch, scripts.LEVELS, (" or number < tonumber(ARGV[2])", ""))


def any_server(patch: pytest.MonkeyPatch) -> None:
    """H359: it does not matter which server answers."""
    real = connections._of

    @instead_of(patch, connections, real)
    def _of(info: str, name: str) -> str:
        return "" if name == "run_id" else real(info, name)


def stock_before_duplicate(patch: pytest.MonkeyPatch) -> None:
    """H125: the script looks at the stock first, and then whether it has answered before."""
    look = "if record then"
    first = scripts.RESERVE.text.index(look)
    block = scripts.RESERVE.text[first : scripts.RESERVE.text.index("local at = now()")]
    take = "for _, line in ipairs(wanted) do\n  redis.call('HINCRBY'"
    _changed(patch, scripts.RESERVE, (block, ""), (take, block + take))


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """H128, H360: the ledger takes what was reserved under a former generation."""
    real = SqlLedger.keep

    @instead_of(patch, SqlLedger, real)
    async def keep(self: SqlLedger, held: Sequence[Held], generation: int) -> Kept:
        return await real(self, held, (await self.place()).generation)


def redis_first(patch: pytest.MonkeyPatch) -> None:
    """H361: what is canceled is given back before the ledger knows."""

    @instead_of(patch, RedisStock, RedisStock.cancel)
    async def cancel(self: RedisStock, reservation_id: str) -> bool:
        await self._settle(reservation_id, State.RELEASED, Settled(True))
        return (await self._gate.from_ledger(self._ledger.cancel(reservation_id))).changed


def redis_is_believed(patch: pytest.MonkeyPatch) -> None:
    """H127: the ledger writes down what Redis has given away, however much there is."""
    real = SqlStore.take

    @instead_of(patch, SqlStore, real)
    def take(self: SqlStore, connection: Connection, lines: Mapping[str, int]) -> list[str]:
        real(self, connection, lines)
        return []


def items_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """H8, H363: rows are locked as they come."""

    @instead_of(patch, SqlStore, SqlStore.take)
    def take(self: SqlStore, connection: Connection, lines: Mapping[str, int]) -> list[str]:
        taken, short = {}, []
        for item, n in random.sample(list(lines.items()), len(lines)):
            if connection.execute(self._take, {"which": item, "n": n}).rowcount == 1:
                taken[item] = n
            else:
                short.append(item)
        if short:
            self._move(connection, taken, State.RELEASED)
        return short


def nothing_shuts_out(patch: pytest.MonkeyPatch) -> None:
    """H122, H123: a cancellation of what is not there is forgotten."""
    instead_of(patch, SqlStore, SqlStore._shut_out)(lambda self, connection, reservation_id: True)


def time_decides(patch: pytest.MonkeyPatch) -> None:
    """H126, H177: what is overdue is released, and nobody is asked."""

    @instead_of(patch, expiry, expiry._settle)
    async def _settle(stock: Stock, reservation_id: str, decision: Callable[[str], Awaitable[Decision]]) -> Decision:
        await stock.cancel(reservation_id)
        return Decision.CANCEL


def the_last_line_counts(patch: pytest.MonkeyPatch) -> None:
    """H362: of two lines with one item, one is forgotten."""
    real = limits.checked_lines

    @instead_of(patch, limits, real)
    def checked_lines(lines: Lines) -> dict[str, int]:
        pairs: Iterable[Any] = lines.items() if isinstance(lines, Mapping) else lines
        return real(dict(pairs))


BUGS = [
    Bug(no_number, test_redis.test_what_is_set_back_behind_a_live_connection_is_noticed),
    Bug(any_server, test_redis.test_a_server_that_comes_back_is_not_believed),
    Bug(stock_before_duplicate, test_contract.test_a_repeat_is_answered_as_before, on="redis"),
    Bug(no_fence, test_redis.test_what_a_former_generation_reserved_is_not_kept),
    Bug(redis_first, test_redis.test_nothing_is_given_back_that_the_ledger_still_holds),
    Bug(redis_is_believed, test_redis.test_the_ledger_has_the_last_word),
    Bug(
        items_in_any_order,
        test_sql.test_fifty_who_reserve_crosswise_never_wait_for_each_other,
        given=(("driver", "asyncpg"),),
    ),
    Bug(nothing_shuts_out, test_contract.test_every_order_of_calls_ends_right),
    Bug(time_decides, test_contract.test_what_becomes_of_an_overdue_reservation_is_decided_by_who_knows, on="memory"),
    Bug(the_last_line_counts, test_contract.test_lines_of_one_item_are_added_up_and_all_or_none_is_reserved),
]
