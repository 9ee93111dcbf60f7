"""Debezium's outbox router on our table, with the configuration of the how-to: real Connect, PostgreSQL and Kafka."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rig.lookup import Missing
from rig.servers.connect import Connect
from rig.servers.kafka import Kafka, Topics
from rig.servers.postgres import Database, Postgres
from rig.watchdog import Watchdog
from txpatterns import App, Event, Transaction
from txpatterns.database import migrations

SNIPPET = Path(__file__).parents[2] / "docs" / "snippets" / "debezium.json"


def column(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(50), nullable=False)


@pytest.fixture
def logical(own_postgres: Postgres) -> Iterator[Database]:
    """An empty database on a server that writes what a connector reads."""
    own_postgres.execute("ALTER SYSTEM SET wal_level = logical")
    own_postgres.restart()
    try:
        with own_postgres.database() as database:
            try:
                yield database
            finally:
                for (slot,) in own_postgres.execute("SELECT slot_name FROM pg_replication_slots"):
                    own_postgres.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    finally:
        own_postgres.execute("ALTER SYSTEM RESET wal_level")
        own_postgres.restart()


@pytest.fixture
def connect(logical: Database, kafka_server: Kafka, watchdog: Watchdog, tmp_path: Path) -> Iterator[Connect]:
    """Connect with the how-to's connector, changed only where it names servers; not started."""
    connector = json.loads(SNIPPET.read_text(encoding="utf-8"))
    (tmp_path / "db.properties").write_text("password=postgres\n")
    connector["config"] |= {
        "database.hostname": "127.0.0.1",
        "database.port": str(logical.address.port),
        "database.user": "postgres",
        "database.password": f"${{file:{tmp_path}/db.properties:password}}",
        "database.dbname": logical.name,
    }
    try:
        server = Connect.of(kafka_server, connector, watchdog)
    except Missing as missing:
        raise pytest.skip.Exception(str(missing)) from None
    yield server
    server.close()


async def test_consumers_read_what_debezium_publishes(kafka: Topics, logical: Database, connect: Connect):
    """P2, P3, H44: each event once, in order for its key, also when the connector is killed and sends some again."""
    topic = kafka.create("orders")

    class Placed(Event, topic=topic, type="order.placed", key="customer"):
        customer: str
        number: int

    class Forgotten(Event, topic=topic, type="customer.forgotten", key="customer", tombstone=True):
        customer: str

    app = App("debezium", logical.url("asyncpg"), kafka.url)
    effects = sa.Table("effect", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *map(column, "ct"))

    @app.on(Placed)
    async def note(event: Placed, tx: Transaction) -> None:
        await tx.session.execute(sa.insert(effects).values(c=event.customer, t=str(event.number)))

    @app.on(Forgotten)
    async def forget(event: Forgotten, tx: Transaction) -> None:
        await tx.session.execute(sa.insert(effects).values(c=event.customer, t="forgotten"))

    query = sa.select(effects.c.c, effects.c.t).order_by(effects.c.id)

    async def seen() -> list[tuple[str, str]]:
        return [tuple(row) for row in await app.database.read(lambda connection: connection.execute(query).all())]

    async def until(count: int) -> None:
        while len(await seen()) < count:  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)

    async def add(numbers: range) -> None:
        for number in numbers:
            async with app.transaction() as session:
                app.outbox.add(session, Placed(customer=f"c{number % 3}", number=number))

    await app.database.transact(migrations.upgrade)
    await app.database.transact(effects.create)
    connect.start()
    async with app.running(relay=False):
        await add(range(30))
        await until(30)
        connect.kill()
        await add(range(30, 60))
        connect.start()
        async with app.transaction() as session:
            app.outbox.add(session, Forgotten(customer="c0"))
        await until(61)
    found = await seen()
    for customer in ("c0", "c1", "c2"):
        expected = [str(number) for number in range(60) if f"c{number % 3}" == customer]
        last = ["forgotten"] if customer == "c0" else []
        assert [what for whose, what in found if whose == customer] == [*expected, *last]
    await app.close()
