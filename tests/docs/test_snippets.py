"""The files that pages include run, and do what is shown beside them; what is pasted is in test_pasted.py."""

from __future__ import annotations

import json

import pytest

from docs.reader import DOCS, SNIPPETS
from rig.servers.sqs import LOGIN
from txpatterns.outbox.schema import outbox_table

SHOWN = sorted(SNIPPETS.rglob("*.out"))
ELSEWHERE = {
    "first.py": "test_tutorial.py",
    "orders.py": "tests/cli",
    "sagas/bank.py": "test_tutorial.py",
    "telemetry.py": "tests/telemetry/test_page.py",
    "tutorial/orders.py": "test_tutorial.py",
    "tutorial/parcels.py": "test_tutorial.py",
    "tutorial/tickets.py": "test_tutorial.py",
    "tutorial/pickups.py": "test_tutorial.py",
    "tutorial/trips.py": "test_tutorial.py",
    "resilience/shared_breakers.py": "tests/resilience/test_page.py",
    "resilience/shared_cache.py": "tests/resilience/test_page.py",
    "resilience/shared_limits.py": "tests/resilience/test_page.py",
    "postgresql.py": "test_snippets.py",
    "kafka.py": "test_snippets.py",
    "sqs.py": "test_snippets.py",
    "rabbitmq.py": "test_snippets.py",
    "stock_redis.py": "test_snippets.py",
}
"""Snippets without a file of expected output beside them, and who runs those."""

OURS = (
    "existing",
    "existing_sessions",
    "keyed",
    "webhooks",
    "ordering",
    "scheduled",
    "failing",
    "batches",
    "saga",
    "sagas/payment",
    "sagas/webhook",
    "event_versions",
    "codecs",
    "ids/shop",
    "ids/alone",
    "ids/public",
    "ids/codes",
    "sqlite",
    "database_broker",
    "parts",
    "stock",
    "resilience/around",
    "resilience/breaker",
    "resilience/cache",
    "resilience/limits",
)


@pytest.mark.parametrize("expected", SHOWN, ids=lambda path: path.stem)
def test_a_snippet_says_what_is_shown(expected, reader):
    """The whole file, not only the parts that a page shows."""
    reader.type(f"python {expected.with_suffix('.py')}", expected.read_text(encoding="utf-8"))


@pytest.mark.server
@pytest.mark.parametrize("way", ["direct", "asyncpg", "psycopg"])
def test_the_engines_for_postgresql_work(way, reader, database, pgbouncer):
    """H98: straight, and through PgBouncer in transaction mode with what the page says for each driver."""
    driver = "asyncpg" if way == "direct" else way
    reader.environment = {
        "TXP_DATABASE_URL": database.url("asyncpg"),
        "DATABASE_URL": database.url(driver),
        "POOLER_URL": database.url(driver, port=pgbouncer.port),
    }
    reader.type("txp db upgrade", "upgraded from nothing to ...")
    reader.type(f"python {SNIPPETS / 'postgresql.py'} {way}", "packing 1")


@pytest.mark.server
def test_the_settings_for_sqs_work(reader, moto):
    """The App of the page, on topics and queues."""
    reader.environment = {**LOGIN, "SQS_ENDPOINT": moto.url}
    reader.type(f"python {SNIPPETS / 'sqs.py'}", "The URL of SQS takes no credentials.\npacking 1")


def test_the_settings_for_kafka_work(reader, kafka):
    """H58, H63: they are taken as shown, and the unsafe one is refused."""
    reader.environment = {"KAFKA_SERVERS": kafka.bootstrap, "TOPIC": kafka.create("docs", partitions=3)}
    refused = "[TXP-1013] Kafka: acks must be all. Fix: Leave the option out: order per key, or every message, ..."
    reader.type(f"python {SNIPPETS / 'kafka.py'}", f"{refused}\npacking 1")


@pytest.mark.server
def test_the_settings_for_rabbitmq_work(reader, rabbitmq):
    """H408: they are taken as shown, and a message goes there and back."""
    reader.environment = {"RABBITMQ_URL": rabbitmq.url}
    reader.type(f"python {SNIPPETS / 'rabbitmq.py'}", "packing 1")


@pytest.mark.server
def test_stock_in_redis_works(reader, redis_url):
    """P5: as the page opens it, on a ledger in a file."""
    reader.environment = {"REDIS_URL": redis_url}
    reader.type(f"python {SNIPPETS / 'stock_redis.py'}", "Level(available=98, reserved=0, sold=2)")


def test_every_snippet_is_run_by_some_test():
    """A snippet without expected output needs a test of its own."""
    alone = {
        str(path.relative_to(SNIPPETS)) for path in SNIPPETS.rglob("*.py") if not path.with_suffix(".out").exists()
    }
    named = {name for name in alone if name in ELSEWHERE or _is_named_by_a_test(name)}
    assert alone - named == set()


def test_every_snippet_of_a_page_is_shown():
    """Code that nobody reads is no documentation."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    assert [name for name in OURS if f"docs/snippets/{name}.py" not in pages] == []


def test_debezium_is_told_columns_that_exist():
    """The connector's configuration names the outbox's own columns."""
    told = json.loads((SNIPPETS / "debezium.json").read_text(encoding="utf-8"))["config"]
    router = {name.removeprefix("transforms.outbox."): value for name, value in told.items()}
    columns = [router[name] for name in ("table.field.event.id", "table.field.event.key", "route.by.field")]
    columns += [placed.split(":")[0] for placed in router["table.fields.additional.placement"].split(",")]
    assert set(columns) <= {column.name for column in outbox_table.columns}
    assert told["table.include.list"] == f"public.{outbox_table.name}"


def _is_named_by_a_test(name: str) -> bool:
    tests = DOCS.parent / "tests"
    stem = name.rsplit("/", 1)[-1]
    return any(
        stem in path.read_text(encoding="utf-8") for path in tests.rglob("*.py") if path.name != "test_snippets.py"
    )
