"""``python -m benchmarks [NAME ...] [--rounds N] [--write]``: runs them on servers of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import add, drain, inbox, latency
from benchmarks import kafka as kafka_cases
from benchmarks.harness import Table, machine, markdown, save
from benchmarks.servers import Kafka, Postgres, Watchdog, fresh_database
from txpatterns.brokers.kafka import KafkaBroker

ROOT = Path(__file__).parent.parent
NAMES = ("add", "bulk", "drain", "kafka", "latency", "inbox")


async def run(names: list[str], rounds: int, postgres: Postgres, kafka: Kafka | None) -> AsyncIterator[Table]:
    """Run the benchmarks of these names, each on an empty database."""
    with fresh_database(postgres) as url:
        if "add" in names:
            for driver, concurrency in (("asyncpg", 1), ("asyncpg", 32), ("psycopg", 1), ("psycopg", 32)):
                yield await add.one_event(url, driver, concurrency, rounds)
        if "bulk" in names:
            yield await add.hundred_events(url, "asyncpg", rounds)
    with fresh_database(postgres) as url:
        if "drain" in names:
            yield await drain.to_nothing(url, rounds)
        if "kafka" in names and kafka is not None:
            async for table in with_kafka(url, kafka, rounds):
                yield table
    with fresh_database(postgres) as url:
        if "latency" in names:
            for table in await latency.commit_to_publish(url, rounds):
                yield table
    with fresh_database(postgres) as url:
        if "inbox" in names:
            yield await inbox.handler(url, rounds)


async def with_kafka(url: str, kafka: Kafka, rounds: int) -> AsyncIterator[Table]:
    """Run the benchmarks of the Kafka adapter: by itself, and behind the relay."""
    logging.getLogger("txpatterns.kafka").setLevel(logging.ERROR)  # that one copy of a partition is weak
    with kafka.topics() as topics:
        async with KafkaBroker.from_url(f"kafka://{kafka.bootstrap}") as broker:
            yield await kafka_cases.publishing(broker, topics.create("publish", partitions=6), rounds)
            yield await kafka_cases.reading(broker, topics.create("read", partitions=6), rounds)
            for table in await drain.to_kafka(url, broker, topics.create("drain", partitions=6), rounds):
                yield table


async def main(names: list[str], rounds: int, *, write: bool) -> None:
    watchdog = Watchdog()
    postgres = Postgres.take(watchdog)
    kafka = Kafka.take(watchdog) if "kafka" in names else None
    try:
        postgres.start()
        if kafka is not None:
            kafka.start()
        tables = [table async for table in run(names, rounds, postgres, kafka)]
    finally:
        for server in (postgres, kafka):
            if server is not None:
                server.close()
        watchdog.close()
    print(markdown(tables, machine()))
    if write:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        save(tables, ROOT / "docs/reference/benchmarks.md", ROOT / f"benchmarks/results/{day}.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the page of the docs and the figures behind it")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.names or list(NAMES), chosen.rounds, write=chosen.write))
