"""``shop infra up``: servers for the shop's services, for as long as it runs."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, NoReturn

import typer

from shop.infra.keepers import Kept, alone_in, note
from shop.infra.places import NotInstalled, write_private
from shop.infra.servers import Broken, Kafka, LocalServer, Postgres, RabbitMQ, Redis, as_user

START_WITHIN = 180.0
"""Seconds that a server has until it answers."""
STOP_WITHIN = 40.0
_LOOK_EVERY = 0.2

group = typer.Typer(no_args_is_help=True, help="Local servers for the shop whose services are processes of their own.")


class Broker(StrEnum):
    """Which broker the services tell each other their events by."""

    KAFKA = "kafka"
    RABBITMQ = "rabbitmq"


BROKERS: dict[Broker, type[LocalServer]] = {Broker.KAFKA: Kafka, Broker.RABBITMQ: RabbitMQ}


@group.command(epilog="Examples: shop infra up  ·  shop infra up --broker rabbitmq --data /tmp/servers")
def up(
    data: Annotated[Path, typer.Option(help="The folder of their data and logs.")] = Path(".shop-servers"),
    broker: Annotated[
        Broker | None, typer.Option(help="Which broker. [default: the one that is installed]", show_default=False)
    ] = None,
) -> None:
    """Start PostgreSQL, Redis and a broker on free ports of this machine, and end them with Ctrl-C.

    What the shop must know of them is written to a file that only you may read. The same folder goes on with its data.
    """
    stopping = threading.Event()
    with _signals(stopping), ExitStack() as stack:
        stack.callback(os.umask, os.umask(0o077))
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context(alone_in(data))
            servers = found(data.resolve(), _password(data), broker)
            running = _Running(lock, stack)
            for server in servers:
                server.prepare()
                running.start(server)
            running.until_up(stopping)
            if not stopping.is_set():
                _tell(servers, _write_settings(data, servers))
                running.watch(stopping)
        except (NotInstalled, Broken, Kept) as error:
            _refuse(str(error))


def found(folder: Path, password: str, broker: Broker | None) -> list[LocalServer]:
    """Give the servers, not yet started.

    Raises:
        NotInstalled: some are not on this machine; the text names each, and what brings it.
    """
    servers, missing = list[LocalServer](), list[str]()
    choices = BROKERS if broker is None else {broker: BROKERS[broker]}
    kinds: list[Sequence[type[LocalServer]]] = [[Postgres], [Redis], list(choices.values())]
    for alternatives in kinds:
        without = list[str]()
        for kind in alternatives:
            try:
                servers.append(kind(folder / kind.name.lower(), password))
                break
            except NotInstalled as absent:
                without.append(str(absent))
        else:
            missing.append("; or ".join(without))
    if missing:
        raise NotInstalled("not installed here:\n  " + "\n  ".join(missing))
    return servers


class _Running:
    """Processes of servers, each in a session of its own, so that Ctrl-C is ours alone; ended in the opposite order."""

    def __init__(self, lock: IO[str], stack: ExitStack) -> None:
        self._lock, self._stack = lock, stack
        self._servers: list[tuple[LocalServer, subprocess.Popen[bytes], Path]] = []

    def start(self, server: LocalServer) -> None:
        for number, command in enumerate(server.commands()):
            log = server.folder.parent / f"{server.name.lower()}.{number}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(  # noqa: S603 - programs of the server
                    command,
                    env={**os.environ, **server.environment},
                    cwd=server.folder.anchor,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[self._lock.fileno()],  # a server that outlives us keeps the folder
                    **as_user(server.user),
                )
            note(self._lock, server.name, process.pid, server.stop_with)
            self._stack.callback(_end, server, process)
            self._servers.append((server, process, log))

    def until_up(self, stopping: threading.Event) -> None:
        """Wait until all answer. Raises Broken when one ends, or does not answer in time."""
        rounds = int(START_WITHIN / _LOOK_EVERY)
        for server, _, log in self._servers:
            for _ in range(rounds):
                if stopping.is_set() or server.is_up():
                    break
                self._refuse_ended()
                stopping.wait(_LOOK_EVERY)
            else:
                raise Broken(f"{server.name} did not answer within {START_WITHIN:.0f} s. See {log}")

    def watch(self, stopping: threading.Event) -> None:
        """Wait until asked to end. Raises Broken when a server ends before that."""
        while not stopping.wait(_LOOK_EVERY):
            self._refuse_ended()

    def _refuse_ended(self) -> None:
        for server, process, log in self._servers:
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip()[-500:]
                raise Broken(f"{server.name} has ended, so all are ended. It said: {last}\nSee {log}")


def _end(server: LocalServer, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(server.stop_with)
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _password(data: Path) -> str:
    """Give the password of this folder's servers; made at the first start, because they keep it with their data."""
    file = data / "password"
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24))
    return file.read_text()


def _write_settings(data: Path, servers: Sequence[LocalServer]) -> Path:
    lines = [f"export {server.setting}={shlex.quote(server.url)}\n" for server in servers]
    return write_private(data / "servers.env", "".join(lines)).resolve()


def _tell(servers: Sequence[LocalServer], file: Path) -> None:
    for server in servers:
        print(f"  {server.name:<11}127.0.0.1:{server.port:<6} {server.setting}")
    print(f"  Settings   {file}")
    print("In another terminal:")
    print(f"  . {shlex.quote(str(file))} && shop up --profile services")
    print("Ctrl-C ends them; the same folder goes on.", flush=True)


@contextmanager
def _signals(stopping: threading.Event) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse(words: str) -> NoReturn:
    print(f"shop: {words}", file=sys.stderr)
    raise typer.Exit(2)
