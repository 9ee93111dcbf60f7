"""``txp doctor``, ``txp topics``, ``txp consumers`` and ``txp queues``: what is wrong, and how much waits where."""

import sqlite3
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import create_engine

from txpatterns import App, Database, Event, Transaction
from txpatterns.admin.broker_watch import examine_broker
from txpatterns.admin.doctor import examine_database
from txpatterns.admin.topics import consumer_figures, topic_figures
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.clock import SystemClock
from txpatterns.database.examining import examine
from txpatterns.database.setup import create_missing
from txpatterns.findings import Finding, Severity
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.testing.clock import ManualClock
from txpatterns.transport import Capabilities

URL = "sqlite+aiosqlite:///orders.db"

WATCHED = """
from datetime import timedelta

from txpatterns import App, Event, Transaction
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.findings import Finding, Severity
from txpatterns.transport import Depth


class Paid(Event, topic="payments", type="paid", key="number"):
    number: int


class Broker(MemoryBroker):
    async def check(self, topics, group=None):
        words = f"read by {group}: {', '.join(topics)}"
        return [Finding(Severity.WARNING, "broker", words, "Nothing."), Finding(Severity.ERROR, "topic", "gone.")]

    async def depths(self, topics, group):
        return [Depth(topic, group, f"{topic}/0", ready=7, oldest=timedelta(seconds=90), readers=0) for topic in topics]


app = App("store", broker=Broker())


@app.on(Paid)
async def ship(event: Paid, tx: Transaction) -> None:
    ...
"""


class Booked(Event, topic="bookings", type="booked", key="number"):
    number: int


@pytest.fixture
def store(project):
    """An App whose broker tells what it finds and how much waits."""
    (project / "store.py").write_text(WATCHED)


def test_tables_that_do_not_fit_stop_a_deploy(txp, project):
    """H430: with the command that mends it, and exit code 3; a file that is not there is told as everywhere."""
    (project / "orders.db").touch()
    ran = txp("doctor", "--database", URL, code=3)
    assert ran.out.startswith("error   tables: The tables differ from what this version needs:")
    assert ran.out.splitlines()[0].endswith("txp db upgrade")
    txp("db", "upgrade", "--database", URL)
    assert txp("doctor", "--database", URL).out == "nothing is wrong\n"
    assert txp("doctor", "--database", URL, "--json").json == []
    assert "There is no file" in txp("doctor", "--database", "sqlite:///nosuch.db", code=1).err


@pytest.mark.usefixtures("store")
def test_the_broker_is_asked_for_what_the_app_reads(txp):
    """H430: the worst first; a warning stops only who wants that."""
    txp("db", "upgrade", "--app", "store:app")
    ran = txp("doctor", "--app", "store:app", code=3)
    assert ran.out.splitlines() == [
        "error   topic: gone.",
        "warning broker: read by store: payments Nothing.",
    ]
    assert [each["severity"] for each in txp("doctor", "--json", code=3, TXP_APP="store:app").json] == [
        "error",
        "warning",
    ]


def test_a_warning_stops_a_strict_deploy(txp, project):
    """H430: a dead letter is for a person, and no reason to keep a mended version back, unless that is wanted."""
    (project / "store.py").write_text(WATCHED.replace("Severity.ERROR", "Severity.INFO"))
    txp("db", "upgrade", "--app", "store:app")
    assert txp("doctor", "--app", "store:app").out.startswith("warning broker")
    txp("doctor", "--app", "store:app", "--strict", code=3)


def test_a_file_without_a_write_ahead_log_is_told(txp, project):
    """H430: it works, and readers and the writer wait for each other."""
    txp("db", "upgrade", "--database", URL)
    with sqlite3.connect(project / "orders.db") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    (told,) = examine_with(f"sqlite:///{project}/orders.db")
    assert (told.severity, told.subject) == (Severity.WARNING, "database")
    assert "journal mode is delete" in told.words


def examine_with(url: str) -> list[Finding]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = examine(connection)
    engine.dispose()
    return found


def test_a_damaged_file_is_told(txp, project):
    """H430: as an error, before anything is written to it."""
    txp("db", "upgrade", "--database", URL)
    file = project / "orders.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        (pages,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[3 * pages : 3 * pages + 100] = b"\xff" * 100
    file.write_bytes(content)
    assert "The file is damaged" in str(examine_with(f"sqlite:///{file}")[0])


@pytest.mark.server
@pytest.mark.parametrize(
    ("setting", "severity"), [("synchronous_commit", Severity.ERROR), ("default_transaction_read_only", Severity.ERROR)]
)
async def test_settings_that_lose_messages_are_told(database, setting, severity):
    """H430: a commit that a crash takes back, and a database that takes no writes."""
    url = database.url("asyncpg")
    value = "off" if setting == "synchronous_commit" else "on"
    change = sa.text(f'ALTER DATABASE "{database.name}" SET {setting} = {value}')
    async with Database(url) as opened:
        await opened.transact(lambda connection: connection.execute(change))
    async with Database(url) as opened:
        found = await opened.read(examine)
    assert [(each.severity, each.subject) for each in found if each.subject == setting] == [(severity, setting)]
    assert all(each.fix for each in found)


@pytest.mark.server
async def test_rights_that_are_missing_are_told(database):
    """H430: each table and each right, as the statement that gives it."""
    async with Database(database.url("asyncpg")) as opened:
        await opened.transact(create_missing)
        user = f"reader_{database.name}"
        for statement in (
            f'CREATE ROLE "{user}" LOGIN',
            f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{user}"',
            f'GRANT INSERT, UPDATE, DELETE ON txp_outbox TO "{user}"',
        ):
            await opened.transact(lambda connection, statement=statement: connection.execute(sa.text(statement)))
        try:
            url = database.url("asyncpg").replace("postgres@", f"{user}@")
            async with Database(url) as theirs:
                found = {each.subject: each for each in await theirs.read(examine)}
            assert "table public.txp_outbox" not in found
            assert found["table public.txp_inbox"].fix == "GRANT INSERT, UPDATE, DELETE ON public.txp_inbox."
        finally:
            for statement in (f'DROP OWNED BY "{user}"', f'DROP ROLE "{user}"'):
                await opened.transact(lambda connection, statement=statement: connection.execute(sa.text(statement)))


@pytest.mark.server
async def test_a_transaction_that_stays_open_is_told(database, monkeypatch):
    """H430: it keeps the server from cleaning up after the outbox."""
    monkeypatch.setattr("txpatterns.database.examining._LONG", timedelta(seconds=-1))
    other = create_engine(database.url("psycopg"))
    with other.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        async with Database(database.url("asyncpg")) as opened:
            found = await opened.read(examine)
    other.dispose()
    assert any(f"of process {pid} " in each.words for each in found)


class Ahead(SystemClock):
    def now(self):
        return super().now() + timedelta(hours=1)


async def test_a_clock_that_is_wrong_is_told(any_database):
    """H430: this machine's is an hour ahead of the database's."""
    async with Database(any_database, clock=Ahead()) as opened:
        await opened.transact(create_missing)
        (told,) = await examine_database(opened)
    assert (told.severity, told.subject) == (Severity.WARNING, "clock")


async def test_what_waits_for_long_is_told(any_database):
    """H430: a backlog that nobody works on."""
    clock = ManualClock()
    async with Database(any_database, clock=clock) as opened:
        await opened.transact(create_missing)
        app = App("depths", opened, "memory://")
        async with app.transaction() as session:
            app.outbox.add(session, Booked(number=1))
        assert await examine_database(opened) == []
        clock.advance(timedelta(minutes=6))
        (told,) = await examine_database(opened)
        assert (told.severity, told.subject) == (Severity.WARNING, "backlog")


async def test_a_broker_that_keeps_longer_than_the_inbox_remembers_is_told():
    """H430: what comes again after that would be handled again."""
    broker = MemoryBroker()
    broker.capabilities = Capabilities(horizon=timedelta(days=14))
    short = ConsumerSettings(retention=timedelta(days=8), redelivery_horizon=timedelta(days=1))
    (told,) = await examine_broker(broker, "memory://", ["orders"], "billing", short)
    assert told.severity is Severity.WARNING
    assert "handled again" in told.words
    assert await examine_broker(broker, "memory://", ["orders"], None, short) == []  # who reads nothing


async def test_what_waits_is_told_by_topic_and_by_handler(any_database):
    """H430, H431: pending and its age, failed and what is behind it, dead, and the share that dies."""
    app = App("depths", any_database, "memory://")
    await app.database.transact(create_missing)

    @app.on(Booked)
    async def book(event: Booked, tx: Transaction) -> None:
        if event.number == 1:
            raise KeyError("again")

    @app.on(Booked, permanent=[ValueError])
    async def strict(event: Booked, tx: Transaction) -> None:
        if event.number == 2:
            raise ValueError("never")

    readers = [("bookings", "depths.book"), ("bookings", "depths.strict")]
    async with app.transaction() as session:
        for number in (1, 1, 2, 3):
            app.outbox.add(session, Booked(number=number))
    (before,) = await topic_figures(app.database, readers)
    assert (before.topic, before.pending, before.waiting, before.dead) == ("bookings", 4, 0, 0)
    assert before.read_by == ["depths.book", "depths.strict"]
    assert before.oldest is not None
    assert timedelta(0) <= before.oldest < timedelta(minutes=10)
    async with app.running():
        await app.drained()
    (after,) = await topic_figures(app.database, readers)
    assert (after.pending, after.oldest) == (0, None)
    book_figures, strict_figures = await consumer_figures(app.database, readers)
    assert (book_figures.retrying, book_figures.behind, book_figures.handled) == (1, 1, 2)
    assert book_figures.oldest is not None
    assert (strict_figures.dead, strict_figures.died, strict_figures.handled) == (1, 1, 3)
    assert (book_figures.dead_rate, strict_figures.dead_rate) == (0.0, 0.25)
    assert [each.subject for each in await examine_database(app.database)] == ["dead letters"]
    await app.close()


def test_a_broker_that_cannot_be_looked_at_is_said_to_be_one(txp):
    """H430: nothing was found is not the same as nothing was looked at."""
    txp("db", "upgrade", "--app", "orders:app")
    assert "nothing that could be looked at" in txp("doctor", "--app", "orders:app").out


@pytest.mark.usefixtures("store")
def test_the_commands_show_what_waits(txp):
    """H431: for people in columns, for programs as JSON; a broker that cannot tell is said to be one."""
    txp("db", "upgrade", "--app", "store:app")
    assert txp("topics", "--app", "store:app").out.splitlines()[1].split() == [
        *("payments", "0", "0", "0", "-", "store.ship")
    ]
    (consumer,) = txp("consumers", "--app", "store:app", "--json").json
    assert (consumer["consumer"], consumer["topics"], consumer["dead_rate"]) == ("store.ship", ["payments"], None)
    assert txp("queues", "store:app").out.splitlines()[1].split() == [
        *("payments", "payments/0", "7", "-", "90", "s", "0")
    ]
    (queue,) = txp("queues", "store:app", "--json").json
    assert queue == {
        "topic": "payments",
        "group": "store",
        "queue": "payments/0",
        "ready": 7,
        "in_flight": None,
        "oldest": "90s",
        "readers": 0,
    }
    assert "has no queues" in txp("queues", "orders:app", code=1).err
