"""``python -m benchmarks [NAME ...] [--rounds N] [--write]``: runs them on servers of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator

from benchmarks import (
    add,
    bursts,
    drain,
    endtoend,
    idle,
    ids,
    importing,
    inbox,
    latency,
    rabbitmq,
    resilience,
    resilience_redis,
    sagas,
    sqs,
    stock,
    tcc,
    trouble,
    wakeup,
)
from benchmarks import kafka as kafka_cases
from benchmarks.harness import Table
from benchmarks.page import markdown, save
from benchmarks.servers import (
    ElasticMQ,
    Kafka,
    Postgres,
    RabbitMQ,
    Watchdog,
    fresh_database,
    logged_in,
    machine,
    redis_server,
)
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.runtime.collector import spare_what_is_loaded

NAMES = (
    "import",
    "ids",
    "resilience",
    "add",
    "bulk",
    "wakeup",
    "drain",
    "bursts",
    "latency",
    "inbox",
    "sagas",
    "tcc",
    "stock",
    "idle",
    "trouble",
    "kafka",
    "endtoend",
    "queue",
    "rabbitmq",
    "sqs",
)


async def run(names: list[str], rounds: int, postgres: Postgres, kafka: Kafka | None) -> AsyncIterator[Table]:
    """Run the benchmarks of these names, each on an empty database."""
    async for table in run_alone(names, rounds):
        yield table
    async for table in run_on_postgres(names, rounds, postgres):
        yield table
    async for table in run_patterns(names, rounds, postgres):
        yield table
    if kafka is not None:
        logging.getLogger("txpatterns.kafka").setLevel(logging.ERROR)  # that one copy of a partition is weak
    if "trouble" in names:
        async for table in run_in_trouble(rounds, postgres, kafka):
            yield table
    if "kafka" in names and kafka is not None:
        async for table in run_on_kafka(rounds, postgres, kafka):
            yield table
    if "endtoend" in names and kafka is not None:
        with fresh_database(postgres) as url, kafka.topics() as topics:
            topic = topics.create("packing", partitions=6)
            yield await endtoend.to_inbox(url, kafka.bootstrap, topic, rounds)


async def run_on_other_brokers(names: list[str], rounds: int, watchdog: Watchdog) -> AsyncIterator[Table]:
    """Run those that publish to a broker of their own, which nothing else needs."""
    if "rabbitmq" in names:
        rabbit = RabbitMQ.take(watchdog)
        rabbit.start()
        with rabbit.host() as host:
            yield await rabbitmq.publishing(host.url, rounds)
            yield await rabbitmq.reading(host.url, rounds)
        rabbit.close()
    if "sqs" in names:
        emulator = ElasticMQ.take(watchdog)
        emulator.start()
        with logged_in():
            yield await sqs.publishing(emulator, rounds)
            yield await sqs.reading(emulator, rounds)
        emulator.close()


async def run_alone(names: list[str], rounds: int) -> AsyncIterator[Table]:
    """Run those that need no database."""
    if "import" in names:
        yield await importing.package(rounds)
    if "ids" in names:
        yield await ids.generators(rounds)
    if "resilience" in names:
        for guard in (resilience.breakers, resilience.limits, resilience.caches):
            yield await guard(rounds)
        with redis_server() as redis:
            yield await resilience_redis.guards(redis.url, rounds)


async def run_on_postgres(names: list[str], rounds: int, postgres: Postgres) -> AsyncIterator[Table]:
    """Run those that need a database and no broker."""
    with fresh_database(postgres) as url:
        if "add" in names:
            for driver, concurrency in (("asyncpg", 1), ("asyncpg", 32), ("psycopg", 1), ("psycopg", 32)):
                yield await add.one_event(url, driver, concurrency, rounds)
        if "bulk" in names:
            yield await add.hundred_events(url, "asyncpg", rounds)
        if "wakeup" in names:
            yield await wakeup.writers(url, rounds)
    with fresh_database(postgres) as url:
        if "drain" in names:
            yield await drain.to_nothing(url, rounds)
    with fresh_database(postgres) as url:
        if "bursts" in names:
            yield await bursts.to_nothing(url, rounds)
    with fresh_database(postgres) as url:
        if "latency" in names:
            for table in await latency.commit_to_publish(url, rounds):
                yield table
    with fresh_database(postgres) as url:
        if "inbox" in names:
            yield await inbox.handler(url, rounds)
            yield await inbox.batches(url, rounds)
    with fresh_database(postgres) as url:
        if "idle" in names:
            yield await idle.apps(url, rounds)
    with fresh_database(postgres) as url:
        if "queue" in names:
            yield await endtoend.in_the_database(url, rounds)


async def run_patterns(names: list[str], rounds: int, postgres: Postgres) -> AsyncIterator[Table]:
    """Run those of sagas, of TCC and of stock."""
    for name, tables in (("sagas", sagas.workflows), ("tcc", tcc.transactions)):
        for concurrency in (1, 32) if name in names else ():
            with fresh_database(postgres) as url:
                yield await tables(url, concurrency, rounds)
    if "stock" in names:
        async for table in run_on_redis(rounds, postgres):
            yield table


async def run_on_redis(rounds: int, postgres: Postgres) -> AsyncIterator[Table]:
    """Run those of stock."""
    with redis_server() as redis, fresh_database(postgres) as url:
        yield await stock.in_redis(redis.url, url, rounds)
    with fresh_database(postgres) as url:
        yield await stock.in_postgresql(url, rounds)


async def run_in_trouble(rounds: int, postgres: Postgres, kafka: Kafka | None) -> AsyncIterator[Table]:
    """Run those in which something is in trouble."""
    for ordered in (True, False):
        with fresh_database(postgres) as url:
            yield await trouble.beside(url, rounds, ordered=ordered)
    if kafka is not None:
        with fresh_database(postgres) as url, kafka.topics() as topics:
            yield await trouble.beside_missing_topic(url, topics, rounds)


async def run_on_kafka(rounds: int, postgres: Postgres, kafka: Kafka) -> AsyncIterator[Table]:
    """Run those that publish to a real Kafka."""
    with kafka.topics() as topics:
        async with KafkaBroker.from_url(f"kafka://{kafka.bootstrap}") as broker:
            yield await kafka_cases.publishing(broker, topics.create("publish", partitions=6), rounds)
            yield await kafka_cases.reading(broker, topics.create("read", partitions=6), rounds)
            with fresh_database(postgres) as url:
                yield await drain.to_kafka(url, broker, topics.create("drain", partitions=6), rounds)
            with fresh_database(postgres) as url:
                yield await bursts.to_kafka(url, broker, topics.create("bursts", partitions=6), rounds)
        with fresh_database(postgres) as url:
            topic = topics.create("ticks", partitions=1)
            for table in await latency.commit_to_consumer(url, kafka.bootstrap, topic, rounds):
                yield table


async def main(names: list[str], rounds: int, *, write: bool) -> None:
    watchdog, started = Watchdog(), time.perf_counter()
    spare_what_is_loaded()  # as `txp run` does
    postgres = Postgres.take(watchdog)
    kafka = Kafka.take(watchdog) if {"kafka", "trouble", "endtoend"} & set(names) else None
    try:
        postgres.start()
        if kafka is not None:
            kafka.start()
        for tables in (run(names, rounds, postgres, kafka), run_on_other_brokers(names, rounds, watchdog)):
            async for table in tables:
                table.ran_on = machine("aio-pika", "dbos", "snowflake-id", "txoutbox")
                print(markdown([table], table.ran_on), flush=True)
                if write:
                    save(table)
    finally:
        for server in (postgres, kafka):
            if server is not None:
                server.close()
        watchdog.close()
        print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--write", action="store_true", help="write the page of the docs and the figures behind it, table by table"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    try:
        asyncio.run(main(chosen.names or list(NAMES), chosen.rounds, write=chosen.write))
    except KeyboardInterrupt:
        sys.exit("stopped; the tables that were finished are kept" if chosen.write else "stopped")
