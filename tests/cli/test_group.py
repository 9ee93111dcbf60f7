"""`txp group`: who reads what on database://, and the end of a group."""

import asyncio

from txpatterns import App, Event

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
    """H423, H424: with what waits for it; there is none afterwards."""
    asyncio.run(sent(project))
    (shown,) = txp("group", "list", "--database", URL, "--json").json
    assert (shown["group"], shown["topic"], shown["waiting"], shown["members"]) == ("billing", "orders", 1, 0)
    said = txp("group", "remove", "billing", "--yes", "--database", URL).out
    assert said == "removed 1 topics of billing, and 1 messages that waited\n"
    assert txp("group", "list", "--database", URL).out == "no group has ever read from database://\n"
    txp("group", "remove", "billing", "--yes", "--database", URL, code=3)
