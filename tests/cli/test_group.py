"""`txp group`: who reads what on database://, and the end of a group."""

import asyncio
from functools import partial

import pytest

from rig.waiting import until
from txpatterns import App, Event
from txpatterns.admin.audit import Deed
from txpatterns.admin.groups import read_group_audit, remove_group
from txpatterns.brokers.database.looking import living, readings
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError

URL = "sqlite+aiosqlite:///plain.db"


class Placed(Event, topic="orders", type="order.placed", key="order"):
    order: str


async def sent(project):
    app = App("billing", f"sqlite+aiosqlite:///{project / 'plain.db'}", "database://")

    @app.on(Placed)
    async def bill(event, tx):
        pass

    async with app.running(consume=False):
        async with app.transaction() as session:
            app.outbox.add(session, Placed(order="one"))
        await app.drained()


def test_a_group_is_shown_and_removed(txp, project):
    """H423, H424: with what waits for it, and who did it and why; there is none afterwards."""
    asyncio.run(sent(project))
    (shown,) = txp("group", "list", "--database", URL, "--json").json
    assert (shown["group"], shown["topic"], shown["waiting"], shown["members"]) == ("billing", "orders", 1, 0)
    assert "Why is it removed?" in txp("group", "remove", "billing", "--yes", "--database", URL, code=1).err
    said = txp("group", "remove", "billing", "--yes", "--reason", "it is gone", "--database", URL).out
    assert said == "removed 1 topics of billing, and 1 messages that waited\n"
    assert txp("group", "list", "--database", URL).out == "no group has ever read from database://\n"
    txp("group", "remove", "billing", "--yes", "--reason", "again", "--database", URL, code=3)
    (deed,) = txp("group", "audit", "--database", URL, "--json").json
    assert deed.pop("done_at")
    assert "@" in deed.pop("who")
    told = {"action": "remove", "reason": "it is gone", "group": "billing"}
    assert deed == {**told, "topic": None, "topics": 1, "messages": 1}


async def test_a_group_that_runs_is_not_removed(any_database):
    """H424: and nothing is written down, for nothing was done."""
    app = App("billing", any_database, "database://")

    @app.on(Placed)
    async def bill(event, tx):
        pass

    await app.database.transact(create_missing)
    async with app.running():
        await until(partial(members, app), "a member")
        with pytest.raises(ConfigurationError, match="runs"):
            await remove_group(app.database, "billing", None, Deed("me", "it is gone"))
        assert await app.database.read(read_group_audit) == []
        assert [each.group for each in await app.database.read(partial(readings, database=app.database))] == ["billing"]


async def members(app):
    return await app.database.read(partial(living, database=app.database, group="billing"))


def test_an_app_that_a_function_makes_is_made_once(txp, project):
    """H418: a command asks one App for its database, its handlers and its broker."""
    source = (project / "orders.py").read_text()
    (project / "orders.py").write_text(f"{source}\n\ndef make():\n    print('made')\n    return app\n")
    txp("db", "upgrade", "--app", "orders:make")
    for command in ("topics", "consumers", "doctor"):
        assert txp(command, "--app", "orders:make", "--json").err.count("made\n") == 1
