"""A process of an application on Kafka: ``python kafka_member.py DATABASE BROKER TOPIC`` relays and handles."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta

from endtoend.application import Count, Teller, count_in, counted
from txpatterns import App, AppSettings
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox import RelaySettings
from txpatterns.runtime.signals import stop_on_signals

LEASE = timedelta(seconds=3)


def make_app(database: str, broker: str, topic: str) -> tuple[App, type[Count]]:
    event, name = counted(topic), f"counting-{topic}"
    settings = AppSettings(relay=RelaySettings(lease=LEASE), consumer=ConsumerSettings(lease_ttl=LEASE))
    return count_in(App(name, database, broker, settings=settings, hooks=[Teller()]), event), event


async def main(database: str, broker: str, topic: str) -> None:
    logging.basicConfig(level=logging.INFO)
    with stop_on_signals() as stopping:
        app, _ = make_app(database, broker, topic)
        async with app.running():
            print("member runs")
            await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
