"""The servers that `shop infra up` starts, as people run it; and what is there for machines with containers."""

import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import redis
import yaml
from typer.testing import CliRunner

import shop
from rig.jars import java
from rig.lookup import Found, Missing
from rig.servers.kafka import Kafka
from rig.waiting import wait_until
from shop.cli import app
from shop.infra import keepers, places, up
from shop.settings import HTTP_PORTS, PORTS, read_settings

DEPLOY = Path(__file__).parent.parent / "deploy"
SHOP = Path(shop.__file__).parent
PATIENCE = timedelta(seconds=240)
TOOLS = {"kafka-storage.sh": "kafka.tools.StorageTool", "kafka-server-start.sh": "kafka.Kafka"}


@pytest.fixture
def folder():
    """A folder that another user can enter, as which PostgreSQL runs for root; pytest's are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        yield Path(made) / "servers"


@contextmanager
def infra(folder, *options, env=None, program=("-m", "shop")):
    """Run `shop infra up`; gives the process, what it says, and the settings that it has written."""
    told = folder.with_suffix(".log")
    command = [sys.executable, *program, "infra", "up", "--data", str(folder), *options]
    with told.open("w") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        ended = "Ctrl-C ends them"
        wait_until(lambda: ended in told.read_text() or running.poll() is not None, what="servers", within=PATIENCE)
        assert ended in told.read_text(), told.read_text()
        yield running, told, settings_in(folder / "servers.env")
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        running.wait(120)


TWO = """
from shop import cli
from shop.infra import servers, up

KINDS = servers.Postgres, servers.Redis
up.found = lambda folder, password, _: [kind(folder / kind.name, password) for kind in KINDS]
cli.main()
"""


@contextmanager
def two_servers(folder):
    """Run `shop infra up` with the two that are quick to start."""
    with infra(folder, program=["-c", TWO]) as given:
        yield given


def settings_in(file):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [line.removeprefix("export ").partition("=") for line in file.read_text().splitlines()]
    return {name: shlex.split(value)[0] for name, _, value in lines}


def listens(url):
    host, port = re.search(r"(127\.0\.0\.1):(\d+)", url).groups()
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def kafka_home(folder):
    """Kafka as it is unpacked, from the jars that the tests have."""
    try:
        jars, runtime = Kafka.packaged(), java()
    except Missing as missing:
        pytest.skip(str(missing))
    Kafka.provide(Found("pip", str(jars)))
    (folder / "bin").mkdir(parents=True)
    for name, main in TOOLS.items():
        script = folder / "bin" / name
        script.write_text(f"#!/bin/sh\nexec {runtime} $KAFKA_HEAP_OPTS -cp '{jars}/*' {main} \"$@\"\n")
        script.chmod(0o755)
    return {**os.environ, "KAFKA_HOME": str(folder), "PATH": f"{runtime.parent}:{os.environ['PATH']}"}


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["rabbitmq", "kafka"])
def test_servers_for_the_shop_start_and_end_together(folder, tmp_path, broker):
    """H446, H447: on loopback, with a password that is in no output; the same folder has its data again."""
    env = None
    if broker == "kafka":
        env = kafka_home(tmp_path / "kafka")
    elif not shutil.which("rabbitmq-server"):
        pytest.skip("no RabbitMQ: apt-get install -y rabbitmq-server")
    with infra(folder, "--broker", broker, env=env) as (running, told, given):
        read = read_settings(tmp_path / "shop", 0, 42, False, given)
        assert read.broker.startswith({"rabbitmq": "amqp://", "kafka": "kafka://"}[broker])
        postgres = given["SHOP_DATABASE"].replace("+asyncpg", "").replace("shop_{service}", "postgres")
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop_kept")
        with redis.Redis.from_url(given["SHOP_REDIS"]) as client:
            client.set("kept", "yes")
        assert all(listens(url) for url in given.values())
        password = (folder / "password").read_text()
        assert password not in told.read_text()
        again = CliRunner().invoke(app, ["infra", "up", "--data", str(folder)])
        assert (again.exit_code, "run on" in again.output) == (2, True), again.output
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 0
        assert not any(listens(url) for url in given.values())
    with infra(folder, "--broker", broker, env=env) as (running, _, given):
        with redis.Redis.from_url(given["SHOP_REDIS"]) as client:
            assert client.get("kept") == b"yes"
        kept = given["SHOP_DATABASE"].replace("+asyncpg", "").replace("{service}", "kept")
        psycopg.connect(kept).close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(kept.replace(password, "wrong"))
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 0


@pytest.mark.server
def test_what_a_killed_one_has_left_is_named_with_how_to_end_it(folder):
    """H429: the next start says which processes keep the folder; what it tells to type ends them, and all is there."""
    with two_servers(folder) as (running, _, given):
        with redis.Redis.from_url(given["SHOP_REDIS"]) as client:
            client.set("kept", "yes")
        again = CliRunner().invoke(app, ["infra", "up", "--data", str(folder)])
        assert f"kill {running.pid}\n" in again.output
        running.kill()
        running.wait()
        left = CliRunner().invoke(app, ["infra", "up", "--data", str(folder)])
        assert left.exit_code == 2
        named = re.findall(r"(PostgreSQL|Redis) \(process (\d+)\)", left.output)
        assert [name for name, _ in named] == ["PostgreSQL", "Redis"], left.output
        postgres, cache = (pid for _, pid in named)
        told = left.output.strip().splitlines()[-1]
        assert told.split() == ["kill", "-TERM", f"{cache};", "kill", "-INT", postgres]
        subprocess.run(["/bin/sh", "-c", told], check=True)
        wait_until(lambda: not any(listens(url) for url in given.values()), what="their end", within=PATIENCE)
        wait_until(lambda: is_free(folder), what="the folder", within=PATIENCE)
    with two_servers(folder) as (_, _, given), redis.Redis.from_url(given["SHOP_REDIS"]) as client:
        assert client.get("kept") == b"yes"


def is_free(folder):
    try:
        with keepers.alone_in(folder):
            return True
    except keepers.Kept:
        return False


def test_somebody_elses_process_is_never_named(tmp_path):
    """H429: a number that is noted may belong to another program by now, which nobody must be told to end."""
    with keepers.alone_in(tmp_path) as lock:
        lock.truncate(0)
        keepers.note(lock, "Redis", os.getppid(), signal.SIGTERM)
        with pytest.raises(keepers.Kept, match=r"run on .* already") as refused, keepers.alone_in(tmp_path):
            pass
    assert "Redis" not in str(refused.value)


def test_what_is_not_installed_is_said_with_what_brings_it(monkeypatch, tmp_path):
    """H448: all of it at once, and nothing is started."""

    def absent(name):
        def find():
            raise places.NotInstalled(f"{name}: install {name}")

        return find

    for name in ("postgresql", "redis", "rabbitmq", "kafka"):
        monkeypatch.setattr(places, name, absent(name))
    ran = CliRunner().invoke(app, ["infra", "up", "--data", str(tmp_path / "servers")])
    assert ran.exit_code == 2
    assert "redis: install redis\n" in ran.output
    assert "kafka: install kafka; or rabbitmq: install rabbitmq" in ran.output


class Fickle(up.Redis):
    """A server that ends at once."""

    def commands(self):
        return [["/bin/sh", "-c", "echo no room on this disk"]]


def test_one_that_ends_takes_the_others_with_it(monkeypatch, tmp_path):
    """H449: and what it said last is told."""
    monkeypatch.setattr(up, "found", lambda folder, password, _: [Fickle(folder / "fickle", password)])
    monkeypatch.setattr(places, "redis", lambda: "redis-server")
    ran = CliRunner().invoke(app, ["infra", "up", "--data", str(tmp_path / "servers")])
    assert ran.exit_code == 2
    assert "Redis has ended" in ran.output
    assert "no room on this disk" in ran.output


@pytest.fixture(scope="module")
def composed():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_has_every_service_and_opens_only_the_store(composed):
    """H446: each service and server with a probe; one port, on loopback."""
    services = composed["services"]
    assert services.keys() == {*HTTP_PORTS, "gateway", "postgres", "kafka", "redis"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service.get("ports", []) == (["127.0.0.1:8080:8080"] if name == "gateway" else [])
        volumes = [mount.partition(":")[0] for mount in service["volumes"]]
        assert composed["volumes"].keys() >= set(volumes), name
    for name in (*HTTP_PORTS, "gateway"):
        assert services[name]["command"] == ["run", name]
        assert services[name]["depends_on"].keys() == {"postgres", "kafka", "redis"}


def test_the_compose_file_has_no_secret_and_names_settings_of_the_shop(composed, tmp_path):
    """H447: each is a variable that must be given; every setting is one that the shop reads, and leads to a service."""
    variables = re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())
    example = (DEPLOY / "env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == set(variables)
    for service in composed["services"].values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|AUTH|_KEY", name) or re.search(r"://\w*:.*@", str(value)):
                assert re.search(r"(^|:)\$\{\w+:\?[^}]+\}(@|$)", value), name
    given = composed["services"]["gateway"]["environment"]
    source = "".join(file.read_text() for file in SHOP.glob("*.py"))
    made = {f"{name.upper()}_{kind}" for name in HTTP_PORTS for kind in ("SERVICE_ADDR", "HTTP_ADDR")}
    assert [name for name in given if name not in made and f'"{name}"' not in source] == []
    values = {name: re.sub(r"\$\{[^}]+\}", "a-password", value) for name, value in given.items()}
    read = read_settings(tmp_path, None, 42, False, values)
    assert all(read.addresses[name] == f"{name}:{port}" for name, port in PORTS.items())
    for name in HTTP_PORTS:
        probe = composed["services"][name]["healthcheck"]["test"][-1]
        assert f"http://{read.http_addresses[name]}/ready" in probe
        assert read.http_addresses[name].startswith(f"{name}:")
    assert read.database_of("orders").endswith("@postgres:5432/shop_orders")


def test_the_image_is_made_of_what_is_there():
    """It runs the command `shop` as nobody in particular, and copies nothing that its list leaves out."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["shop"]' in lines
    assert "USER shop" in lines
    root = SHOP.parents[3]
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert all((root / line[1:]).exists() for line in kept if line.startswith("!"))


@pytest.mark.soak  # an everyday machine has no engine, and a gate knows no skips
def test_the_compose_file_is_understood(tmp_path):
    """By the engine's own tool, where there is one."""
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], check=False).returncode:
        pytest.skip("no docker compose: see docs.docker.com/compose/install")
    env = {**os.environ, "SHOP_DATABASE_PASSWORD": "x", "SHOP_REDIS_PASSWORD": "x"}
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "-q"]
    assert subprocess.run(command, env=env, cwd=tmp_path, check=False).returncode == 0
