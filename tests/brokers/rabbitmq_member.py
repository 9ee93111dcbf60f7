"""A process of an application on RabbitMQ: ``python rabbitmq_member.py DATABASE BROKER`` relays and handles."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta

from endtoend.application import Teller, count_in, counted
from txpatterns import App, AppSettings
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox import RelaySettings
from txpatterns.runtime.signals import stop_on_signals

LEASE = timedelta(seconds=3)
EVENT = counted("counts")


def make_app(database: str, broker: str) -> App:
    settings = AppSettings(relay=RelaySettings(lease=LEASE), consumer=ConsumerSettings(lease_ttl=LEASE))
    return count_in(App("counting", database, broker, settings=settings, hooks=[Teller()]), EVENT)


async def main(database: str, broker: str) -> None:
    logging.basicConfig(level=logging.INFO)
    with stop_on_signals() as stopping:
        async with make_app(database, broker).running():
            print("member runs")
            await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
