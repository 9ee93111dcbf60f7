"""Names that an application chooses reach SQL quoted, values bound."""

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from txpatterns import App, AppSettings, Event, Transaction
from txpatterns.database.setup import create_missing

SCHEMA = 'o"ne; DROP TABLE kept; --'
TEXT = '\'; DROP TABLE kept; --\\ "$1" %s :x'


class Odd(Event, topic="odd; DROP TABLE kept", type="odd.'kept'", key="key"):
    key: str
    text: str


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_schema_of_any_name_is_served(database, driver):
    """H148, P1, P2: schema, topic, type, key, consumer and payload that would be SQL if they were pasted in."""
    engine = create_async_engine(database.url(driver))
    quoted = engine.dialect.identifier_preparer.quote(SCHEMA)
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE kept (text text)"))
        await connection.execute(sa.text(f"CREATE SCHEMA {quoted}"))
        await connection.execute(sa.text(f"SET LOCAL search_path TO {quoted}"))
        await connection.run_sync(create_missing)
    mapped = engine.execution_options(schema_translate_map={None: SCHEMA})
    app = App("odd'app", mapped, "memory://", settings=AppSettings(wakeups=False))

    @app.on(Odd, name='h"andler; --')
    async def keep(event: Odd, tx: Transaction) -> None:
        await tx.session.execute(sa.text("INSERT INTO public.kept VALUES (:text)"), {"text": event.text})

    async with app.running():
        async with app.session() as session, session.begin():
            app.outbox.add(session, Odd(key=TEXT, text=TEXT))
        async with app.session() as session, session.begin():  # several rows go another way
            for number in range(3):
                app.outbox.add(session, Odd(key=f"{TEXT}{number}", text=TEXT))
        await app.drained()
    async with engine.connect() as connection:
        assert list((await connection.execute(sa.text("SELECT text FROM kept"))).scalars()) == [TEXT] * 4
        handled = await connection.scalar(sa.text(f"SELECT count(*) FROM {quoted}.txp_inbox"))
    assert handled == 4
    await app.close()
    await engine.dispose()
