"""A process of an application on ``database://``: ``python queue_member.py URL`` sends nothing and handles all."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta

from endtoend.application import Teller, count_in, counted
from txpatterns import App, AppSettings
from txpatterns.brokers.database import DatabaseBroker
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox import RelaySettings
from txpatterns.runtime.signals import stop_on_signals

LEASE = timedelta(seconds=3)
TOPIC = "counts"
EVENT = counted(TOPIC)


def make_app(url: str, name: str = "counting") -> App:
    settings = AppSettings(relay=RelaySettings(lease=LEASE), consumer=ConsumerSettings(lease_ttl=LEASE))
    return count_in(App(name, url, DatabaseBroker(lease=LEASE), settings=settings, hooks=[Teller()]), EVENT)


async def main(url: str) -> None:
    logging.basicConfig(level=logging.INFO)
    with stop_on_signals() as stopping:
        async with make_app(url).running():
            print("member runs")
            await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
