"""Ten thousand sagas in three processes, which are killed, paused and stopped, as is their server."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from endtoend import saga_application
from endtoend.fleet import Fleet
from endtoend.saga_application import BANK, STOCK, Account, Base, Confirmed, Orders, is_undone, make_orders, waits
from endtoend.verdict import Story
from rig import evidence
from rig.process import Child
from rig.servers.postgres import Database as PostgresDatabase
from rig.servers.postgres import Postgres
from txpatterns import App
from txpatterns.database.setup import create_missing
from txpatterns.sagas.facts import Attempted, Ended, Fact, Undone, read
from txpatterns.sagas.schema import saga_journal_table, saga_lock_table, saga_table, saga_wait_table

SAGAS = int(os.environ.get("TXP_SOAK_SAGAS", "10000"))
PER_TRANSACTION = 10
ENGINES = ("sagas 1", "sagas 2", "sagas 3")

_saga, _journal = saga_table.c, saga_journal_table.c
ENDED = "SELECT count(*) FROM txp_saga WHERE ended_at IS NOT NULL AND parent IS NULL"
OWNERS = "SELECT count(*) FROM txp_member WHERE scope = 'sagas' AND expires_at > clock_timestamp()"


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.server
@pytest.mark.timeout(3600)
async def test_each_saga_ends_as_it_should(
    own_postgres: Postgres,
    database: PostgresDatabase,
    child: Callable[..., Child],
    pytestconfig: pytest.Config,
) -> None:
    """P4, P7; H168, H172, H173, H174, H325, H326, H331, H333, I6, I19, I20, I21, I22, I24, I25.

    Invariant: whatever process or server stops, each saga comes to its right end, each step of it and each undoing
    happens once, and no money is made or lost.
    """
    orders = make_orders(database.url("asyncpg"))
    app = orders.app
    await app.database.transact(create_missing)
    await app.database.transact(Base.metadata.create_all)
    async with app.transaction() as session:
        session.add(Account(name=BANK, balance=STOCK))
    environment = {"DATABASE": database.url("asyncpg")}
    fleet = Fleet(app, lambda _: child(saga_application.__file__, environment=environment))
    story = Story(SAGAS)
    for name in ENGINES:
        await fleet.start(name)
    began = time.monotonic()
    async with asyncio.TaskGroup() as together:
        together.create_task(_start_all(orders))
        together.create_task(_nemesis(fleet, own_postgres, story))
    healed = time.monotonic()
    await fleet.until(ENDED, lambda n: n >= SAGAS, "all ends")
    story.figures["seconds"] = round(time.monotonic() - began, 1)
    story.figures["seconds_to_end_after_the_last_fault"] = round(time.monotonic() - healed, 1)
    wrong = story.figures["wrong"] = await _judge(app, story)
    pytestconfig.stash[evidence.told].append(f"sagas end to end: {json.dumps(story.figures)}")
    assert wrong == dict.fromkeys(wrong, 0)
    await fleet.stop()
    await app.close()
    evidence.keep("sagas-end-to-end", story.figures, [own_postgres])


async def _start_all(orders: Orders) -> None:
    """Start the sagas in small transactions, and bring what some of them wait for; some before they are started."""
    for first in range(0, SAGAS, PER_TRANSACTION):
        numbers = range(first, min(first + PER_TRANSACTION, SAGAS))
        while not await _commit(orders, numbers):  # noqa: ASYNC110 - a server is away; there is no event
            await asyncio.sleep(0.2)


async def _commit(orders: Orders, numbers: range) -> bool:
    """Start some; the same again where nobody knows whether that was committed: by their ids they are the same."""
    app = orders.app
    try:
        async with app.transaction() as session:
            for number in numbers:
                id_ = f"order/{number}"
                if await session.get(Account, id_) is None:
                    session.add(Account(name=id_, balance=0))
                app.sagas.start(session, orders.order, number, id=id_)
                if waits(number):
                    app.sagas.bring(session, Confirmed(order=id_), f"confirmed {number}")
    except (DBAPIError, OSError):
        return False
    return True


async def _nemesis(fleet: Fleet, postgres: Postgres, story: Story) -> None:
    """One fault after the other, each when a share of the sagas has ended: so each falls into running work."""
    share = max(1, SAGAS // 8)

    async def reached(part: int, what: str) -> None:
        await fleet.until(ENDED, lambda n: n >= share * part, f"{share * part} ends")
        story.fault(what)

    await reached(1, "engine killed")
    await fleet.kill("sagas 1")
    await reached(2, "engine paused beyond its lease")
    fleet.members["sagas 2"].stop()
    await fleet.until(OWNERS, lambda n: n == len(ENGINES) - 1, "its lease to run out")
    fleet.members["sagas 2"].cont()
    await reached(3, "PostgreSQL killed and started")
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(postgres.start)
    await reached(4, "engine asked to end, and another started")
    await fleet.stop("sagas 3")
    await fleet.start("sagas 3")
    await reached(5, "two engines killed")
    await fleet.kill("sagas 1")
    await fleet.kill("sagas 2")
    await reached(6, "engine killed")
    await fleet.kill("sagas 3")


async def _judge(app: App, story: Story) -> dict[str, int]:
    """Count what must not be. Everything is noted in the story, too."""

    def count(connection: sa.Connection, statement: str) -> int:
        return int(connection.execute(sa.text(statement)).scalar_one())

    def look(connection: sa.Connection) -> dict[str, int]:
        parents = connection.execute(sa.select(saga_table).where(_saga.parent.is_(None))).mappings().all()
        ends = {row["id"]: row["status"] for row in parents}
        wanted = {f"order/{n}": "compensated" if is_undone(n) else "completed" for n in range(SAGAS)}
        story.figures |= {"sagas": SAGAS, "ends": dict(Counter(ends.values()))}
        story.figures["failed_attempts"] = sum(isinstance(fact, Attempted) for fact in _facts(connection))
        return {
            "not_started": len(wanted.keys() - ends.keys()),
            "ended_otherwise": sum(ends[id_] != end for id_, end in wanted.items() if id_ in ends),
            "shown_to_a_person": count(connection, "SELECT count(*) FROM txp_saga WHERE attention IS NOT NULL"),
            "effects_twice": count(connection, "SELECT count(*) - count(DISTINCT key) FROM effect"),
            "steps_without_an_effect": _differing(connection),
            "money_made_or_lost": count(connection, f"SELECT sum(balance) - {STOCK} FROM account"),
            "undone_in_part": count(connection, _OF_UNDONE),
            "charged_and_undone": count(connection, _CHARGED),
            "journals_with_gaps": count(connection, _GAPS),
            "waits_left": len(connection.execute(sa.select(saga_wait_table.c.saga)).all()),
            "locks_left": len(connection.execute(sa.select(saga_lock_table.c.saga)).all()),
        }

    story.figures["faults"] = [what for _, what in story.faults]
    return await app.database.read(look)


_OF_UNDONE = """
    SELECT count(*) FROM txp_saga JOIN account ON account.name = txp_saga.id
    WHERE status = 'compensated' AND balance <> 0
"""
_CHARGED = """
    SELECT count(*) FROM charge JOIN txp_saga ON txp_saga.id = charge.saga
    WHERE asked < 1 OR (refunded > 0) <> (status = 'compensated')
"""
_GAPS = "SELECT count(*) FROM (SELECT 1 FROM txp_saga_journal GROUP BY saga, run HAVING max(n) <> count(*)) AS gaps"


def _differing(connection: sa.Connection) -> int:
    """How many steps and undoings have a fact and no effect, or the other way round."""
    facts: Counter[str] = Counter()
    for fact in _facts(connection):
        facts["take"] += isinstance(fact, Ended) and fact.mark.kind == "step"
        facts["give back"] += isinstance(fact, Undone) and fact.mark.kind in ("step", "child")
    rows: Any = connection.execute(sa.text("SELECT what, count(*) FROM effect GROUP BY what")).all()
    return sum(abs(facts[what] - found) for what, found in rows)


def _facts(connection: sa.Connection) -> Iterator[Fact]:
    """Give all that the journals have."""
    for text in connection.execute(sa.select(_journal.facts)).scalars():
        yield from read(text)
