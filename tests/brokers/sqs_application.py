"""The App that the tests of SQS start as a process, and kill: `python sqs_application.py DATABASE URL TOPIC`."""

import asyncio
import sys

import sqlalchemy as sa

from txpatterns import App, Event, Transaction
from txpatterns.database.setup import create_missing

effects = sa.Table(
    "effects",
    sa.MetaData(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(50)),
    sa.Column("number", sa.Integer),
)


def make_app(database: str, url: str, topic: str) -> tuple[App, type[Event]]:
    class Counted(Event, topic=topic, type="counted", key="key"):
        key: str
        number: int

    app = App("counting", database=database, broker=url)

    @app.on(Counted)
    async def count(event: Counted, tx: Transaction) -> None:
        await tx.session.execute(sa.insert(effects).values(key=event.key, number=event.number))

    return app, Counted


async def prepare(app: App) -> None:
    await app.database.transact(create_missing)
    await app.database.transact(lambda connection: effects.create(connection, checkfirst=True))


async def main() -> None:
    app, _ = make_app(*sys.argv[1:])
    print("running")
    await app.run()


if __name__ == "__main__":
    asyncio.run(main())
