"""Messages that are kept, on PostgreSQL: partitions by time, made ahead by the relay and dropped whole."""

import asyncio
import logging
import secrets
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from outbox.broker import ScriptedBroker
from outbox.support import OffsetClock, Placed, open_database, prepare_tables, rows, session_of
from txpatterns.database import Database
from txpatterns.errors import SchemaError
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.relay.partitions import KeptMessages
from txpatterns.outbox.schema import sent_table

KEEP = timedelta(hours=6)
SETTINGS = RelaySettings(keep_sent=KEEP, poll=timedelta(milliseconds=50))
DEFAULT = "txp_outbox_sent_default"
PARTITIONS = sa.text(
    "SELECT CAST(inhrelid AS regclass)::text FROM pg_inherits WHERE inhparent = to_regclass('txp_outbox_sent') "
    f"AND inhrelid IS DISTINCT FROM to_regclass('{DEFAULT}') ORDER BY 1"
)
WHERE = sa.text(
    "SELECT message_id, sent_at, CAST(tableoid AS regclass)::text AS place FROM txp_outbox_sent ORDER BY position"
)
NO_ROW_IS_DELETED = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a row is deleted'; END $$",
    "CREATE TRIGGER refuse BEFORE DELETE ON txp_outbox_sent FOR EACH ROW EXECUTE FUNCTION refuse()",
)


@pytest.fixture
def clock():
    return OffsetClock()


@pytest.fixture(params=["asyncpg", "psycopg"])
async def store(request, database, clock):
    async with open_database(database.url(request.param), clock=clock) as store:
        yield store


async def send(store, count=5):
    """Publish messages by a relay that keeps them, and looks after the partitions once; their ids."""
    outbox = Outbox(store)
    async with session_of(store) as session, session.begin():
        added = [outbox.add(session, Placed(order_id="a", n=n)) for n in range(count)]
    await Relay(store, ScriptedBroker(), settings=SETTINGS).run_once()
    return added


async def partitions(store):
    return [name for (name,) in await rows(store, PARTITIONS)]


async def tend(store, keep=KEEP):
    kept = KeptMessages(store, keep)
    await kept.prepare()
    while await kept.forget(100):
        continue


def kept_of(found):
    return [row.message_id for row in found]


async def test_a_message_is_kept_in_the_partition_of_its_time(store, clock):
    """H28: the partitions of this hour and the next are there before their time, and rows find their way."""
    await tend(store)
    made = await partitions(store)
    clock.offset += timedelta(minutes=2)
    added = await send(store)
    clock.offset += timedelta(hours=1)
    added += await send(store)
    found = await rows(store, WHERE)
    assert kept_of(found) == added
    places = [row.place for row in found]
    assert places[:5] == places[:1] * 5
    assert places[5:] == places[5:6] * 5
    assert places[0] != places[5]
    assert set(places) <= set(await partitions(store))
    assert set(made) <= set(await partitions(store))
    assert all(place.startswith("txp_partitions.sent_") for place in places)


async def test_old_partitions_are_dropped_and_no_row_is_deleted(store, clock):
    """H28, H29: what is over goes with its partition, and what is not stays; deleting a row would fail here."""
    await tend(store)
    for statement in NO_ROW_IS_DELETED:
        await store.execute(sa.text(statement))
    clock.offset += timedelta(minutes=2)
    await send(store)
    old = {row.place for row in await rows(store, WHERE)}
    clock.offset += KEEP - timedelta(minutes=5)
    await tend(store)
    assert old <= set(await partitions(store))
    assert len(await rows(store, WHERE)) == 5
    clock.offset += timedelta(minutes=65)
    await tend(store)
    clock.offset += timedelta(minutes=2)
    new = await send(store)
    assert not old & set(await partitions(store))
    assert kept_of(await rows(store, WHERE)) == new


async def test_a_message_without_a_partition_goes_to_the_default(store, clock):
    """H28, H29: after a long stop the first messages have none; they are kept as long, and deleted in batches."""
    added = await send(store)
    assert {row.place for row in await rows(store, WHERE)} == {DEFAULT}
    clock.offset += KEEP - timedelta(minutes=1)
    await tend(store)
    assert kept_of(await rows(store, WHERE)) == added
    clock.offset += timedelta(minutes=2)
    await tend(store)
    assert await rows(store, WHERE) == []


async def test_several_relays_at_once_make_each_partition_once(database, clock):
    """H28: those who look after the partitions at the same time do each thing once, and none of them fails."""
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        stores = [store, *(Database(database.url("asyncpg"), clock=clock) for _ in range(3))]
        sent = []
        for _ in range(12):
            clock.offset += timedelta(minutes=50)
            keeps = (KEEP, timedelta(days=9), KEEP, KEEP)  # one of them is set up differently
            await asyncio.gather(*(tend(one, keep) for one, keep in zip(stores, keeps, strict=True)))
            sent.append(await send(store, 2))
        found = kept_of(await rows(store, WHERE))
        assert found[-14:] == [message for round_ in sent[-7:] for message in round_]  # those of the last 300 minutes
        assert len(found) == len(set(found))
        for other in stores[1:]:
            await other.close()


@pytest.mark.parametrize(("keep", "seconds"), [(timedelta(minutes=5), 3600), (timedelta(days=30), 86400)])
async def test_a_partition_holds_an_hour_or_a_day(database, clock, keep, seconds):
    """H28: a few dozen partitions, whether messages are kept for minutes or for weeks; they end on the hour or day."""
    query = sa.text(
        "SELECT extract(epoch FROM CAST(substring(pg_get_expr(relpartbound, oid) FROM $$TO \\('([^']+)$$) "
        "AS timestamptz)) FROM pg_class WHERE relispartition AND relkind = 'r' AND relname LIKE 'sent%' ORDER BY 1"
    )
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        await tend(store, keep)
        ends = [int(end) for (end,) in await rows(store, query)]
        assert len(ends) >= 2
        assert ends == [ends[0] + n * seconds for n in range(len(ends))]
        assert ends[0] % seconds == 0
        await tend(store, keep)
        assert len(await rows(store, query)) == len(ends)


async def test_a_reader_delays_a_drop_and_nothing_else(store, clock):
    """H28: while somebody reads the table for hours, messages are settled; the partition goes afterwards."""
    await tend(store)
    clock.offset += timedelta(minutes=2)
    await send(store)
    (old, *_) = {row.place for row in await rows(store, WHERE)}
    async with store.engine.connect() as reader:
        await reader.execute(WHERE)
        clock.offset += KEEP + timedelta(hours=1)
        new = await send(store)
        assert old in await partitions(store)
        assert set(new) <= set(kept_of(await rows(store, WHERE)))
    await tend(store)
    assert old not in await partitions(store)
    assert kept_of(await rows(store, WHERE)) == new


async def test_partitions_are_made_while_messages_are_settled(store, clock):
    """H28: an open transaction that has just kept a message does not stand in the way of the next partition."""
    await tend(store)
    clock.offset += timedelta(minutes=2)
    await send(store)
    before = await partitions(store)
    async with store.engine.connect() as settling:
        given = dict.fromkeys(("message_id", "topic", "type", "content_type", "headers"), "")
        when = {"occurred_at": store.now(), "sent_at": store.now()}
        await settling.execute(sa.insert(sent_table).values(position=0, bucket=0, payload=b"", **given, **when))
        clock.offset += timedelta(hours=1)
        await tend(store)
        assert len(await partitions(store)) > len(before)


@contextmanager
def role_with(postgres, database, rights):
    """A user who is given these rights, and an engine's arguments to act as that user."""
    name = f"relay_{secrets.token_hex(6)}"
    owner = sa.create_engine(database.url("psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with owner.connect() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {name}")
            for right in rights:
                connection.exec_driver_sql(f"GRANT {right} TO {name}")
        yield {"connect_args": {"server_settings": {"role": name}}}
    finally:
        with owner.connect() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")
        owner.dispose()


RIGHTS = ["SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public", "USAGE ON ALL SEQUENCES IN SCHEMA public"]


async def test_without_the_right_to_make_partitions_rows_are_deleted(postgres, database, clock, caplog):
    """H28, H29: the relay says once what it may not do, and what was kept for long enough goes batch by batch."""
    async with open_database(database.url("asyncpg"), clock=clock) as owner:
        revoke = "REVOKE ALL ON txp_outbox_sent_default FROM PUBLIC"
        await owner.transact(lambda connection: connection.exec_driver_sql(revoke))
        with role_with(postgres, database, RIGHTS) as given, caplog.at_level(logging.WARNING, "txpatterns.relay"):
            engine = create_async_engine(database.url("asyncpg"), **given)
            store = Database(engine, clock=clock)
            old = await send(store)
            assert kept_of(await rows(store, WHERE)) == old
            clock.offset += KEEP + timedelta(hours=1)
            kept = KeptMessages(store, KEEP)
            caplog.clear()
            while await kept.forget(2):
                continue
            said = [record.message for record in caplog.records if "row by row" in record.message]
            assert len(said) == 1
            assert "belong to another user" in said[0]
            assert await rows(store, WHERE) == []
            assert await partitions(store) == []
            await store.close()
            await engine.dispose()


async def test_an_owner_without_the_right_to_a_schema_deletes_rows(postgres, database, clock, caplog):
    """H28: the tables are its own, but it may make no schema for partitions: PostgreSQL's reason is in the log."""
    with role_with(postgres, database, ["ALL ON SCHEMA public"]) as given:
        engine = create_async_engine(database.url("asyncpg"), **given)
        async with open_database(engine, clock=clock) as store:
            added = await send(store)
            with caplog.at_level(logging.WARNING, "txpatterns.relay"):
                clock.offset += KEEP - timedelta(hours=1)
                await tend(store)
                assert kept_of(await rows(store, WHERE)) == added
                clock.offset += timedelta(hours=2)
                await tend(store)
            assert "permission denied for database" in caplog.text
            assert await rows(store, WHERE) == []
        await engine.dispose()


async def test_a_missing_default_partition_is_refused_with_its_statements(postgres, database):
    """H28: where it may not be made either, the relay does not start; what the error says, mends it."""
    async with open_database(database.url("asyncpg")) as owner:
        await owner.transact(lambda connection: connection.exec_driver_sql(f"DROP TABLE {DEFAULT}"))
        with role_with(postgres, database, RIGHTS) as given:
            engine = create_async_engine(database.url("asyncpg"), **given)
            store = Database(engine)
            with pytest.raises(SchemaError, match="default partition") as refused:
                await Relay(store, ScriptedBroker(), settings=SETTINGS).run_once()
            _, _, statements = refused.value.remedy.partition("run: ")
            for statement in statements.split("; "):
                await owner.transact(lambda connection, told=statement: connection.exec_driver_sql(told))
            assert await send(store) == kept_of(await rows(owner, WHERE))
            await store.close()
            await engine.dispose()


async def test_tables_of_two_schemas_have_partitions_of_their_own(database, clock):
    """H3, H28: with schema_translate_map each outbox makes, fills and drops what belongs to it."""
    engine = create_async_engine(database.url("asyncpg"))
    stores = {}
    for schema in ("one", 't"wo'):
        quoted = engine.dialect.identifier_preparer.quote(schema)
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"CREATE SCHEMA {quoted}"))
        mapped = engine.execution_options(schema_translate_map={None: schema})
        async with mapped.begin() as connection:
            await connection.execute(sa.text(f"SET LOCAL search_path TO {quoted}"))
            await connection.run_sync(prepare_tables)
        stores[schema] = Database(mapped, clock=clock)
    for store in stores.values():
        await tend(store)
    clock.offset += timedelta(minutes=2)
    added = {schema: await send(store) for schema, store in stores.items()}
    placed = sa.select(sent_table.c.message_id, sa.literal_column("tableoid").label("place"))
    places = {}
    for schema, store in stores.items():
        found = await rows(store, placed)
        assert sorted(kept_of(found)) == sorted(added[schema])
        places[schema] = {row.place for row in found}
    assert not places["one"] & places['t"wo']
    clock.offset += KEEP + timedelta(hours=1)
    await tend(stores["one"])
    assert await rows(stores["one"], placed) == []
    assert len(await rows(stores['t"wo'], placed)) == 5
    for store in stores.values():
        await store.close()
    await engine.dispose()


@pytest.mark.parametrize(
    ("zone", "style"),
    [("Asia/Kolkata", "SQL, DMY"), ("America/St_Johns", "German, DMY"), ("Asia/Jerusalem", "Postgres, DMY")],
)
async def test_how_times_are_shown_decides_nothing(database, clock, zone, style):
    """H227: zone and style of the database's sessions change neither the hours of partitions nor what is dropped."""
    engine = sa.create_engine(database.url("psycopg"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET timezone = '{zone}'")
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET DateStyle = '{style}'")
    engine.dispose()
    async with open_database(database.url("asyncpg"), clock=clock) as store:
        await tend(store)
        first = await partitions(store)
        assert first
        assert {name.rpartition("_")[2] for name in first[1:]} <= {"000000"} | {f"{n:02}0000" for n in range(24)}
        await tend(store)  # what there is already is read again
        assert await partitions(store) == first
        clock.offset = timedelta(hours=9)
        await tend(store)
        assert not set(first) & set(await partitions(store))
        assert (await store.read(lambda c: c.scalar(sa.text("SHOW timezone")))) == zone
