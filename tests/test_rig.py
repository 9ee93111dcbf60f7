"""The rig itself: what it says of a server or a fault has to be true, or no other test proves anything."""

import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg
import pika
import pika.exceptions
import psutil
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer
from sqlalchemy import create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from rig import trees
from rig.lookup import Found, Missing, find
from rig.process import Child
from rig.proxy import TO_CLIENT, TO_SERVER, FaultNeverFired, Proxy
from rig.servers.base import NotOurs, Server
from rig.servers.elasticmq import ElasticMQ
from rig.servers.kafka import Kafka, Topics
from rig.servers.pgbouncer import PgBouncer
from rig.servers.postgres import Database, Postgres
from rig.servers.rabbitmq import RabbitMQ, VirtualHost
from rig.servers.redis import Redis
from rig.waiting import wait_until

# The look-up order.


class Everywhere:
    name = "Toy"
    variable = "TXP_TEST_TOY_URL"
    image: str | None = None
    remedy = "pip install toy"

    @classmethod
    def installed(cls) -> Path:
        return Path("/usr/bin/toy")

    @classmethod
    def packaged(cls) -> Path:
        return Path("/site/toy")


class OnlyPackaged(Everywhere):
    @classmethod
    def installed(cls) -> Path:
        raise Missing("toy is not installed")


class Nowhere(OnlyPackaged):
    @classmethod
    def packaged(cls) -> Path:
        raise Missing("the package toy is not installed")


@pytest.mark.parametrize(
    ("kind", "environ", "found"),
    [
        (Everywhere, {"TXP_TEST_TOY_URL": "toy://here"}, Found("environment", "toy://here")),
        (Everywhere, {}, Found("installed", "/usr/bin/toy")),
        (OnlyPackaged, {}, Found("pip", "/site/toy")),
        (Everywhere, {"TXP_TEST_SOURCES": "pip,installed"}, Found("pip", "/site/toy")),
    ],
)
def test_the_first_place_that_has_a_server_is_taken(kind, environ, found):
    assert find(kind, environ) == found


def test_a_missing_server_is_named_with_every_reason_and_the_command_that_provides_it():
    with pytest.raises(Missing) as missing:
        find(Nowhere, {})
    assert str(missing.value) == (
        "no Toy: TXP_TEST_TOY_URL is not set; toy is not installed; the package toy is not installed; "
        "no container image of it is known. To get one: pip install toy"
    )


def test_an_unknown_source_is_a_mistake_not_a_missing_server():
    with pytest.raises(ValueError, match="moon"):
        find(Everywhere, {"TXP_TEST_SOURCES": "moon"})


def test_a_server_given_by_url_is_used_and_never_stopped(postgres, watchdog):
    given = Postgres(Found("environment", postgres.url), watchdog)
    given.start()
    assert (given.version, given.port) == (postgres.version, postgres.port)
    with pytest.raises(NotOurs):
        given.kill()
    given.close()
    assert postgres.execute("SELECT 1") == [(1,)]


# Servers: what they confirmed survives a kill, and nothing of them is left at the end.


def _ways(*kinds: type[Server]) -> list[object]:
    """Each kind from each place that has it on this machine; the fixtures fail in CI where none has."""
    ways = []
    for kind in kinds:
        for source in ("installed", "pip"):
            try:
                found = find(kind, {"TXP_TEST_SOURCES": source})
            except Missing:
                continue
            ways.append(pytest.param(kind, found, id=f"{kind.name}-{source}"))
    return ways


def _keep(server: Server) -> Callable[[], object]:
    """Write something durable; returns how to read it."""
    if isinstance(server, Postgres):
        server.execute("CREATE TABLE kept AS SELECT 42 AS number")
        return lambda: server.execute("SELECT number FROM kept") == [(42,)]
    if isinstance(server, ElasticMQ):
        made = server.client().create_queue(QueueName="kept.fifo", Attributes={"FifoQueue": "true"})
        kept = {"MessageGroupId": "a", "MessageDeduplicationId": "a", "MessageBody": "42"}
        server.client().send_message(QueueUrl=made["QueueUrl"], **kept)

        def receive() -> bool:
            wait = {"WaitTimeSeconds": 20, "VisibilityTimeout": 0}  # it answers before it has read what it kept
            found = server.client().receive_message(QueueUrl=made["QueueUrl"], **wait)
            return [message["Body"] for message in found.get("Messages", [])] == ["42"]

        return receive
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "42")

    def read() -> bool:
        with redis.Redis.from_url(server.url) as client:
            return client.get("kept") == b"42"

    return read


@pytest.mark.server
@pytest.mark.parametrize(("kind", "found"), _ways(Postgres, Redis, ElasticMQ))
def test_data_survives_a_kill_and_a_restart_and_then_nothing_is_left(kind, found, watchdog):
    server = kind(found, watchdog)
    try:
        server.start()
        still_there = _keep(server)
        server.kill()
        assert not server.alive()
        assert _refused(server.port)
        server.start()
        assert still_there()
        server.restart()
        assert still_there()
        assert server.faults == {"kill": 1, "stop": 1}
    finally:
        server.close()
    assert _refused(server.port)
    server.close()


def test_kafka_keeps_confirmed_messages_through_a_kill(own_kafka: Kafka, kafka: Topics):
    topic = kafka.create("orders", partitions=2, config={"retention.ms": "-1"})
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "acks": "all"})
    producer.produce(topic, b"body", key=b"key")
    assert producer.flush(30) == 0
    own_kafka.kill()
    assert _refused(own_kafka.port)
    own_kafka.start()
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    with closing(Consumer(settings)) as consumer:
        consumer.subscribe([topic])
        message = wait_until(lambda: consumer.poll(1), what="the message to come back")
    assert (message.key(), message.value()) == (b"key", b"body")


def test_kafka_topics_are_new_for_every_test_and_gone_after_it(kafka_server: Kafka):
    with kafka_server.topics() as topics:
        names = [topics.create("orders"), topics.create("orders", partitions=3)]
        listed = kafka_server.admin().list_topics(timeout=30).topics
        assert [len(listed[name].partitions) for name in names] == [1, 3]
    wait_until(
        lambda: not set(names) & set(kafka_server.admin().list_topics(timeout=30).topics), what="the topics to go"
    )


def test_rabbitmq_keeps_durable_messages_through_a_kill_and_leaves_nothing_behind(watchdog):
    server = RabbitMQ.take(watchdog)
    try:
        server.start()
        with server.connection(server.url) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
            channel.basic_publish("", "kept", b"body", pika.BasicProperties(delivery_mode=2), mandatory=True)
        server.wait_until_noted("kept")
        server.kill()
        assert _refused(server.port)
        server.start()

        def kept() -> bytes | None:
            try:
                with server.connection(server.url) as connection:
                    return connection.channel().basic_get("kept", auto_ack=True)[2]
            except pika.exceptions.AMQPError:  # a quorum queue needs a moment to have a leader again
                return None

        assert wait_until(kept, what="the message to come back", within=timedelta(seconds=180)) == b"body"
    finally:
        server.close()
    assert _refused(server.port)
    assert _refused(server.mapped_at)
    server.close()


def test_rabbitmq_hosts_are_new_for_every_test_and_an_alarm_ends_with_its_block(
    own_rabbitmq: RabbitMQ, rabbitmq: VirtualHost
):
    blocked = []
    with own_rabbitmq.connection(rabbitmq.url) as connection:
        connection.add_on_connection_blocked_callback(lambda *_: blocked.append(True))
        connection.add_on_connection_unblocked_callback(lambda *_: blocked.append(False))
        channel = connection.channel()
        channel.queue_declare("queue")
        with own_rabbitmq.alarm():
            channel.basic_publish("", "queue", b"body")  # who publishes is told
            wait_until(lambda: connection.process_data_events() or blocked == [True], what="the block")
        wait_until(lambda: connection.process_data_events() or blocked == [True, False], what="its end")
    assert rabbitmq.queues().keys() == {"queue"}
    with own_rabbitmq.host() as other:
        assert other.queues() == {}


def test_a_paused_server_keeps_its_connections(own_postgres: Postgres):
    with psycopg.connect(own_postgres.url) as connection:
        backend = connection.info.backend_pid
        own_postgres.pause()
        assert psutil.Process(backend).status() == psutil.STATUS_STOPPED
        own_postgres.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert own_postgres.faults["pause"] >= 1


def test_a_server_that_a_test_left_dead_or_paused_is_healed(watchdog):
    server = Redis.take(watchdog)
    try:
        server.start()
        server.kill()
        server.heal()
        server.pause()
        server.heal()
        assert server.probe() == server.version
    finally:
        server.close()


def test_postgres_is_set_up_for_crash_tests(postgres: Postgres):
    settings = {name: postgres.execute(f"SHOW {name}") for name in ("fsync", "synchronous_commit", "max_connections")}
    assert settings == {"fsync": [("on",)], "synchronous_commit": [("on",)], "max_connections": [("200",)]}


def test_postgres_starts_from_a_folder_that_is_closed_to_its_user(watchdog, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    original = Postgres.packaged().parent
    for folder in (original.parent, original.parent.with_name(f"{original.parent.name}.libs")):
        (closed / folder.name).symlink_to(folder)
    server = Postgres(Found("pip", str(closed / original.parent.name / original.name / "bin")), watchdog)
    try:
        server.start()
        assert server.execute("SELECT 1") == [(1,)]
    finally:
        server.close()


async def test_every_database_fixture_is_empty_and_works(any_database, sync_database):
    engine = create_async_engine(any_database)
    async with engine.begin() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == []
        await connection.exec_driver_sql("CREATE TABLE used (id INTEGER)")
    await engine.dispose()
    plain = create_engine(sync_database)
    with plain.begin() as connection:
        assert [name for name in inspect(connection).get_table_names() if name != "used"] == []
    plain.dispose()


def test_pgbouncer_serves_each_transaction_from_its_pool(database: Database, pgbouncer: PgBouncer):
    url = database.url(port=pgbouncer.port)
    with psycopg.connect(url, prepare_threshold=None) as one, psycopg.connect(url, prepare_threshold=None) as two:
        backends = set()
        for connection in (one, two):
            backends.add(connection.execute("SELECT pg_backend_pid()").fetchone())
            connection.commit()
    assert len(backends) == 1, "one after the other: transaction mode lends both the same connection"


def test_redis_url_is_empty(redis_url: str):
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


STARTER = """
import sys
from rig.servers.postgres import Postgres
from rig.watchdog import Watchdog
watchdog = Watchdog()
server = Postgres.take(watchdog)
server.start()
if sys.argv[1] == "paused":
    server.pause()
print("folder", watchdog.folder)
print("up", server.port)
sys.stdin = open("/dev/zero")
while True:
    sys.stdin.read(1) and __import__("signal").pause()
"""


@pytest.mark.server
@pytest.mark.parametrize("state", ["running", "paused"])
def test_servers_and_their_data_are_gone_after_a_killed_test_run(state, watchdog, tmp_path):
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    with Child([script, state], watchdog) as run:
        port = int(run.wait_for("up ").split()[1])
        folder = Path(run.wait_for("folder ").split()[1])
        servers = trees.named(psutil.Process(run.pid), "postgres")
        assert servers
        psutil.Process(run.pid).kill()
        run.wait()
    wait_until(lambda: not any(process.is_running() for process in servers), what="the servers to be gone")
    wait_until(lambda: not folder.exists(), what="the data to be gone")
    assert _refused(port)


# The proxy: each fault hits what it says, and counts it.


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that is cut is what these tests do."""


@pytest.fixture
def echo() -> Iterator[int]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo, proxied) -> Proxy:
    return proxied(echo)


class Talk:
    """A client of the echo server."""

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)

    def say(self, words: bytes) -> None:
        self.socket.sendall(words)

    def hear(self, size: int) -> bytes:
        heard = b""
        while len(heard) < size and (piece := self.socket.recv(size - len(heard))):
            heard += piece
        return heard

    def hears_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(30)


@pytest.fixture
def talk(proxy) -> Iterator[Talk]:
    talk = Talk(proxy)
    talk.say(b"hello\n")
    assert talk.hear(6) == b"hello\n"
    yield talk
    talk.socket.close()


def test_cut_by_reset(proxy: Proxy, talk: Talk):
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        talk.hear(1)
    with closing(Talk(proxy).socket) as again:
        again.sendall(b"again\n")
        assert again.recv(6) == b"again\n"
    assert proxy.fired == {"cut": 1}


def test_cut_by_fin(proxy: Proxy, talk: Talk):
    proxy.cut(reset=False)
    assert talk.hear(1) == b""


def test_refused_until_healed_while_open_connections_go_on(proxy: Proxy, talk: Talk):
    proxy.refuse()
    assert _refused(proxy.port)
    talk.say(b"still\n")
    assert talk.hear(6) == b"still\n"
    proxy.heal()
    with closing(Talk(proxy).socket):
        assert proxy.fired == {"refuse": 1}


def test_half_open_accepts_and_says_nothing(proxy: Proxy):
    proxy.silence()
    talk = Talk(proxy)
    talk.say(b"anybody?\n")
    proxy.wait_fired("silence")
    assert talk.hears_nothing()
    proxy.heal()
    assert talk.hear(9) == b"anybody?\n"
    talk.socket.close()


def test_a_half_open_connection_is_cut(proxy: Proxy):
    proxy.silence()
    talk = Talk(proxy)
    proxy.wait_fired("silence")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        talk.hear(1)
    proxy.heal()
    talk.socket.close()


def test_silence_in_one_direction(proxy: Proxy, talk: Talk):
    proxy.silence(TO_CLIENT)
    talk.say(b"held\n")
    proxy.wait_fired("silence")
    assert talk.hears_nothing()
    proxy.heal()
    assert talk.hear(5) == b"held\n"


def test_delay_throttle_and_slices_change_no_byte(proxy: Proxy, talk: Talk):
    proxy.delay(timedelta(milliseconds=1), jitter=timedelta(milliseconds=1))
    proxy.throttle(1_000_000)
    proxy.slice(TO_SERVER)
    line = bytes(range(97, 123)) * 20 + b"\n"
    talk.say(line)
    assert talk.hear(len(line)) == line
    assert proxy.fired["slice"] >= 1
    assert proxy.fired["delay"] >= 2
    assert proxy.fired["throttle"] >= len(line)


def test_one_reply_is_lost_and_the_next_client_is_served(proxy: Proxy, talk: Talk):
    proxy.lose_reply(after=2)
    talk.say(b"twelve bytes\n")
    assert talk.hear(2) == b"tw"
    with pytest.raises(ConnectionResetError):
        talk.hear(1)
    with closing(Talk(proxy).socket) as again:
        again.sendall(b"again\n")
        assert again.recv(6) == b"again\n"
    assert proxy.fired == {"lose reply": 1}


def test_the_lost_reply_is_that_to_the_chosen_request(proxy: Proxy, talk: Talk):
    other = Talk(proxy)
    proxy.lose_reply(to=b"COMMIT")
    talk.say(b"begin\n")
    assert talk.hear(6) == b"begin\n"
    talk.say(b"COM")
    talk.say(b"MIT\n")
    with pytest.raises(ConnectionResetError):
        talk.hear(1)
    other.say(b"unhurt\n")
    assert other.hear(7) == b"unhurt\n"
    other.socket.close()


def test_a_request_is_lost(proxy: Proxy, talk: Talk):
    proxy.lose_request()
    talk.say(b"never there\n")
    with pytest.raises(ConnectionResetError):
        talk.hear(1)
    assert proxy.fired == {"lose request": 1}


def test_a_server_that_is_away_looks_away_through_the_proxy(proxied):
    proxy = proxied(9)
    talk = Talk(proxy)
    with closing(talk.socket), pytest.raises(ConnectionResetError):
        talk.hear(1)


def test_a_fault_that_hit_nothing_fails_the_test(echo):
    proxy = Proxy(echo).start()
    proxy.cut()
    with pytest.raises(FaultNeverFired, match="cut"):
        proxy.close()


def test_a_commit_whose_reply_is_lost_has_happened(database: Database, postgres: Postgres, proxied):
    """P1, H60: the driver reports a failure, the server committed; only the proxy makes this case on demand."""
    proxy = proxied(postgres.port)
    connection = psycopg.connect(database.url(port=proxy.port))
    connection.execute("CREATE TABLE paid (id int)")
    proxy.lose_reply(to=b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()
    with psycopg.connect(database.url()) as direct:
        assert direct.execute("SELECT count(*) FROM paid").fetchone() == (0,)
    assert proxy.fired == {"lose reply": 1}


async def test_asyncpg_loses_a_commit_reply_too(database: Database, postgres: Postgres, proxied):
    """P1, H60: the same with the other driver."""
    proxy = proxied(postgres.port)
    connection = await asyncpg.connect(database.url(port=proxy.port))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("CREATE TABLE paid (id int)")
    proxy.lose_reply(to=b"COMMIT")
    with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
        await transaction.commit()
    connection.terminate()
    with psycopg.connect(database.url()) as direct:
        assert direct.execute("SELECT count(*) FROM paid").fetchone() == (0,)


# Child processes.


def test_a_child_says_its_lines_and_ends_with_its_code(child):
    run = child("-c", "print('one'); print('two'); raise SystemExit(3)")
    assert run.wait_for("two") == "two"
    assert run.wait() == 3
    assert run.lines == ["one", "two"]


def test_a_child_that_ends_without_the_words_shows_what_it_said(child):
    run = child("-c", "raise ValueError('no such luck')")
    with pytest.raises(AssertionError, match="no such luck"):
        run.wait_for("ready")


WAITER = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: (print("asked to end"), sys.exit(0)))
own = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("child", own.pid)
while True:
    signal.pause()
"""


def test_a_child_is_killed_with_all_that_it_started(child):
    run = child("-c", WAITER)
    grandchild = psutil.Process(int(run.wait_for("child ").split()[1]))
    run.kill9()
    assert run.wait() == -signal.SIGKILL
    wait_until(lambda: not grandchild.is_running(), what="the grandchild to be gone")


def test_what_an_ended_child_left_behind_ends_with_the_test(watchdog):
    with Child(["-c", WAITER], watchdog) as run:
        orphan = psutil.Process(int(run.wait_for("child ").split()[1]))
        run.sigterm()
        wait_until(lambda: psutil.Process(run.pid).status() == psutil.STATUS_ZOMBIE, what="the child to end")
    wait_until(lambda: not orphan.is_running(), what="the orphan to be gone")


def test_a_stopped_child_goes_on_and_ends_when_asked(child):
    run = child("-c", "import signal\nsignal.signal(15, lambda *_: exit(7))\nprint('up')\nwhile True: signal.pause()")
    run.wait_for("up")
    run.stop()
    assert psutil.Process(run.pid).status() == psutil.STATUS_STOPPED
    run.cont()
    run.sigterm()
    assert run.wait() == 7


def _refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0
