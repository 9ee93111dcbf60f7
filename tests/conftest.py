"""Fixtures for every test: real servers, fresh databases and topics, faults, child processes, one seed.

How a server is found, and what a test can ask of it: rig/README.md.
"""

import os
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from rig import evidence
from rig.lookup import Missing, find
from rig.process import Child
from rig.proxy import Proxy
from rig.servers.base import Server
from rig.servers.elasticmq import ElasticMQ
from rig.servers.kafka import Kafka, Topics
from rig.servers.kafka_second import SecondKafka
from rig.servers.moto import Moto
from rig.servers.pgbouncer import PgBouncer
from rig.servers.postgres import Database, Postgres
from rig.servers.rabbitmq import RabbitMQ, VirtualHost
from rig.servers.redis import Redis
from rig.servers.sqs import logged_in
from rig.skips import judge
from rig.watchdog import Watchdog

S = TypeVar("S", bound=Server)

KINDS: dict[str, type[Server]] = {
    "postgres": Postgres,
    "pgbouncer": PgBouncer,
    "kafka_server": Kafka,
    "rabbitmq_server": RabbitMQ,
    "redis_server": Redis,
    "elasticmq_server": ElasticMQ,
    "moto_server": Moto,
}
SEED = int(os.environ.get("TXP_TEST_SEED", "1"))

taken = pytest.StashKey[set[str]]()
"""The servers that this run has started or was given."""

hypothesis.settings.register_profile("txpatterns", deadline=None, print_blob=True)
hypothesis.settings.load_profile("txpatterns")


# What pytest prints, marks and repeats.


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[taken] = set[str]()
    config.stash[evidence.told] = []
    if config.getoption("randomly_seed", None) == "default":
        config.option.randomly_seed = SEED
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> list[str]:
    return [f"rig: {_where(kind)}" for kind in KINDS.values()] + [f"rig: TXP_TEST_SEED={SEED}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _kinds_of(item):
            item.add_marker("server")
        if item.get_closest_marker("one_driver") and _database_of(item) == "postgresql+psycopg":
            item.add_marker("soak")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch what is large before the time of any test counts."""
    if session.config.option.collectonly:
        return
    for kind in {kind for item in session.items for kind in _kinds_of(item)}:
        try:
            kind.provide(find(kind))
        except Missing:
            continue  # the fixture says so, test by test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judge(report)
    if report.failed:
        report.sections.append(("seed", f"TXP_TEST_SEED={SEED} python -m pytest '{item.nodeid}'"))
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """With pytest-xdist each worker has servers of its own, and tells here which it took, and what its tests told."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[taken].update(output.get("rig", []))
    node.config.stash[evidence.told].extend(output.get("told", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        servers = session.config.stash[taken]
        session.config.workeroutput["rig"] = sorted(servers)
        session.config.workeroutput["told"] = session.config.stash[evidence.told]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    servers = config.stash[taken]
    if servers:
        terminalreporter.section("servers")
    for server in sorted(servers):
        terminalreporter.write_line(server)
    for line in config.stash[evidence.told]:
        terminalreporter.write_line(line)


def _kinds_of(item: pytest.Item) -> set[type[Server]]:
    return {KINDS[name] for name in KINDS.keys() & set(getattr(item, "fixturenames", ()))}


def _database_of(item: pytest.Item) -> object:
    call: Any = getattr(item, "callspec", None)
    return None if call is None else call.params.get("any_database")


def _where(kind: type[Server]) -> str:
    try:
        return f"{kind.name} {find(kind)}"
    except Missing as missing:
        return str(missing)


# Servers. One of each per session, started for the first test that asks.


@pytest.fixture(scope="session")
def watchdog() -> Iterator[Watchdog]:
    """Ends what the tests start, however the tests end; has the folder of this run."""
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def _serve(make: Callable[[], S], config: pytest.Config) -> Iterator[S]:
    try:
        server = make()
    except Missing as missing:
        raise pytest.skip.Exception(str(missing)) from None
    try:
        server.start()
        config.stash[taken].add(str(server))
        yield server
    finally:
        server.close()


def _to_break(server: S) -> Iterator[S]:
    if not server.ours:
        raise pytest.skip.Exception(f"{server} may serve others too: this test would kill or pause it")
    yield server
    server.heal()


@pytest.fixture(scope="session")
def postgres(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[Postgres]:
    yield from _serve(lambda: Postgres.take(watchdog), pytestconfig)


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres, watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode before `postgres`: `database.url("asyncpg", port=pgbouncer.port)`."""
    yield from _serve(lambda: PgBouncer.before(postgres, watchdog), pytestconfig)


@pytest.fixture(scope="session")
def kafka_server(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[Kafka]:
    yield from _serve(lambda: Kafka.take(watchdog), pytestconfig)


@pytest.fixture(scope="session")
def rabbitmq_server(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[RabbitMQ]:
    yield from _serve(lambda: RabbitMQ.take(watchdog), pytestconfig)


@pytest.fixture(scope="session")
def redis_server(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[Redis]:
    yield from _serve(lambda: Redis.take(watchdog), pytestconfig)


@pytest.fixture(scope="session")
def elasticmq_server(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[ElasticMQ]:
    yield from _serve(lambda: ElasticMQ.take(watchdog), pytestconfig)


@pytest.fixture(scope="session")
def moto_server(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[Moto]:
    yield from _serve(lambda: Moto.take(watchdog), pytestconfig)


@pytest.fixture
def own_postgres(postgres: Postgres) -> Iterator[Postgres]:
    """The same server, for a test that kills, pauses or restarts it; running again afterwards."""
    yield from _to_break(postgres)


@pytest.fixture
def own_kafka(kafka_server: Kafka) -> Iterator[Kafka]:
    """The same server, for a test that kills, pauses or restarts it; running again afterwards."""
    yield from _to_break(kafka_server)


@pytest.fixture
def own_rabbitmq(rabbitmq_server: RabbitMQ) -> Iterator[RabbitMQ]:
    """The same server, for a test that kills, pauses or restarts it; running again afterwards."""
    yield from _to_break(rabbitmq_server)


@pytest.fixture
def first_kafka(watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[Kafka]:
    """The first node of a cluster of its own, for `second_kafka`."""
    yield from _serve(lambda: Kafka.take(watchdog), pytestconfig)


@pytest.fixture
def second_kafka(first_kafka: Kafka, watchdog: Watchdog, pytestconfig: pytest.Config) -> Iterator[SecondKafka]:
    """Its second node, to be killed: what only it has is without a leader then."""
    yield from _serve(lambda: SecondKafka(first_kafka, watchdog), pytestconfig)


@pytest.fixture
def own_redis(redis_server: Redis) -> Iterator[Redis]:
    """The same server, emptied, for a test that kills, pauses or restarts it; running again afterwards."""
    redis_server.empty()
    yield from _to_break(redis_server)


@pytest.fixture
def own_elasticmq(elasticmq_server: ElasticMQ) -> Iterator[ElasticMQ]:
    """The same server, for a test that kills, pauses or restarts it; running again afterwards."""
    yield from _to_break(elasticmq_server)


# What a test works on: empty, and its own.


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """An empty PostgreSQL database; `.url("asyncpg")`, `.url("psycopg")` (sync and async) or `.url()`."""
    with postgres.database() as database:
        yield database


@pytest.fixture
def kafka(kafka_server: Kafka) -> Iterator[Topics]:
    """`.bootstrap` (host and port), `.url` (`kafka://…`) and `.create(name, partitions=…, config=…)`."""
    with kafka_server.topics() as topics:
        yield topics


@pytest.fixture
def elasticmq(elasticmq_server: ElasticMQ) -> Iterator[ElasticMQ]:
    """SQS alone, with credentials for boto3 in the environment; names in it are the test's own to make."""
    with logged_in():
        yield elasticmq_server


@pytest.fixture
def moto(moto_server: Moto) -> Iterator[Moto]:
    """SNS and SQS, with credentials for boto3 in the environment."""
    with logged_in():
        yield moto_server


@pytest.fixture
def rabbitmq(rabbitmq_server: RabbitMQ) -> Iterator[VirtualHost]:
    """`.url` (`amqp://…`) of a virtual host of the test's own, and what an operator could do there."""
    with rabbitmq_server.host() as host:
        yield host


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty Redis. One given by URL is emptied too."""
    redis_server.empty()
    return redis_server.url


@pytest.fixture(
    params=[
        pytest.param("sqlite+aiosqlite", id="sqlite-aiosqlite"),
        pytest.param("postgresql+asyncpg", id="postgresql-asyncpg", marks=pytest.mark.server),
        pytest.param("postgresql+psycopg", id="postgresql-psycopg", marks=pytest.mark.server),
    ]
)
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of an empty database, for `create_async_engine`: once with each async driver."""
    return _fresh(request, tmp_path)


@pytest.fixture(
    params=[
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgresql+psycopg", id="postgresql-psycopg", marks=pytest.mark.server),
    ]
)
def sync_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same for `create_engine`: once with each plain driver."""
    return _fresh(request, tmp_path)


def _fresh(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    dialect, _, driver = request.param.partition("+")
    if dialect == "sqlite":
        return f"{request.param}:///{tmp_path / 'test.db'}"
    database: Database = request.getfixturevalue("database")
    return database.url(driver)


# Faults and child processes.


@pytest.fixture
def proxied() -> Iterator[Callable[..., Proxy]]:
    """`proxied(port)` puts a proxy before a server. The test fails if a fault it asked for never fired."""
    with ExitStack() as proxies:

        def before(port: int, *, listen: int = 0) -> Proxy:
            proxy = Proxy(port, seed=SEED, listen=listen).start()
            proxies.callback(proxy.close)
            return proxy

        yield before


@pytest.fixture
def child(watchdog: Watchdog, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`child("-m", "package", …)` or `child(script, …)` runs Python; gone when the test ends."""
    with ExitStack() as children:

        def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> Child:
            return children.enter_context(Child(arguments, watchdog, environment=environment, folder=tmp_path))

        yield run


@pytest.fixture(autouse=True)
def seed() -> int:
    """The seed of this run (`TXP_TEST_SEED`), from which every test's `random` starts; printed on failure."""
    random.seed(SEED)
    return SEED
