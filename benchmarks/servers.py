"""The servers that the benchmarks run against: those of the tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rig.machine import machine
from rig.servers.elasticmq import ElasticMQ
from rig.servers.kafka import Kafka, Topics
from rig.servers.postgres import Postgres
from rig.servers.rabbitmq import RabbitMQ
from rig.servers.redis import Redis
from rig.servers.sqs import logged_in
from rig.watchdog import Watchdog

__all__ = [
    "ElasticMQ",
    "Kafka",
    "Postgres",
    "RabbitMQ",
    "Redis",
    "Topics",
    "Watchdog",
    "fresh_database",
    "logged_in",
    "machine",
    "redis_server",
]


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Run a Redis of its own for as long as the block lasts."""
    watchdog = Watchdog()
    redis = Redis.take(watchdog)
    try:
        redis.start()
        yield redis
    finally:
        redis.close()
        watchdog.close()


@contextmanager
def fresh_database(server: Postgres) -> Iterator[str]:
    """Give the plain URL of an empty database."""
    with server.database() as database:
        yield database.url()
