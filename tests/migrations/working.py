"""``working.py URL NAME EVENTS``: a process that sends events and handles what comes, in whichever release it runs."""

import asyncio
import signal
import sys
from importlib import metadata
from pathlib import Path

import sqlalchemy as sa

import txpatterns
from txpatterns import App, Event, Transaction

handled = sa.Table("handled", sa.MetaData(), sa.Column("what", sa.String(100)))


class Sent(Event, topic="sent", type="sent", key="key"):
    key: str
    what: str


async def main(url: str, name: str, events: int) -> None:
    app, stopping = App("shop", url, "memory://"), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    @app.on(Sent)
    async def handle(event: Sent, tx: Transaction) -> None:
        await tx.session.execute(sa.insert(handled).values(what=event.what))

    print("runs", Path(txpatterns.__file__).parent, metadata.version("txpatterns"))
    async with app.running():
        print("ready")
        for number in range(events):
            async with app.transaction() as session:
                app.outbox.add(session, Sent(key=str(number % 7), what=f"{name} {number}"))
        print("sent")
        await app.drained()
        print("drained")
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
