"""The command ``shop``."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from fastapi import FastAPI

from shop import building, wiring
from shop import parity as parity_rows
from shop.cli_load import load_command
from shop.gateway.live import Bell
from shop.gateway.public_ids import OrderIds
from shop.given import SettingsError
from shop.infra import up as infra
from shop.jobs import load_stock
from shop.own_secrets import read_id_key
from shop.problems import Problem
from shop.rpc.asking import ask
from shop.rpc.errors import STATUSES
from shop.server import Server, listen, serve_until_stopped
from shop.settings import HTTP_PORTS, PORTS, Settings, read_addresses, read_grpc_port, read_settings
from shop.telemetry import write_logs
from txpatterns.errors import IdInvalid, TxPatternsError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The reference shop of txpatterns.")

STOP_PATIENCE = 45
"""Seconds that the services have to end: longer than they give what they have under way."""


class Profile(StrEnum):
    """In which shape the shop runs."""

    EMBEDDED = "embedded"
    SERVICES = "services"


class Job(StrEnum):
    """What can be done once."""

    LOAD_STOCK = "load-stock"


DATA = Annotated[Path, typer.Option(help="The folder of the databases and secrets.")]
PORT = Annotated[
    int | None,
    typer.Option(help="Where the store listens; 0 takes any port that is free. [default: 8080]", show_default=False),
]
SEED = Annotated[int, typer.Option(help="Prices, stock and the bank's luck: the same number gives the same.")]


@app.command(epilog="Examples: shop up  ·  shop up --port 9000 --data /tmp/shop --reset --headless")
def up(
    port: PORT = None,
    data: DATA = Path(".shop"),
    reset: Annotated[bool, typer.Option("--reset", help="Forget the folder's databases first.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
    seed: SEED = 42,
    profile: Annotated[Profile, typer.Option(help="One process, or one for each service.")] = Profile.EMBEDDED,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="Let the services answer by gRPC, too; each for itself, they always do.")
    ] = False,
) -> None:
    """Open the shop: buy something, break it, watch it recover. Ctrl-C closes it."""
    data.mkdir(parents=True, exist_ok=True)
    with _alone_in(data):
        if reset:
            forget(data)
        settings = _settings(data, port, seed, profile is Profile.EMBEDDED)
        with _open_port(settings.host, settings.port) as door:
            settings = settings.open_at(door.getsockname()[1])
            write_logs("shop" if profile is Profile.EMBEDDED else "gateway", json=settings.json_logs)
            if profile is Profile.EMBEDDED:
                if grpc:
                    _check_grpc_ports(settings, PORTS)
                _serve_store(settings, door, headless, *wiring.embedded(settings, told=_say if grpc else None))
            else:
                with _services(settings, seed):
                    _serve_store(settings, door, headless, *wiring.gateway(settings))


@app.command(epilog="Examples: shop run orders  ·  shop run gateway --port 8080")
def run(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join([*HTTP_PORTS, 'gateway'])}.")],
    data: DATA = Path(".shop"),
    port: PORT = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Where the service answers by gRPC; 0 takes any port that is free.")
    ] = None,
    seed: SEED = 42,
) -> None:
    """Run one service alone, on the servers that the environment names."""
    if service not in {*HTTP_PORTS, "gateway"}:
        _refuse(f"There is no service {service}: choose one of {', '.join([*HTTP_PORTS, 'gateway'])}.")
    settings = _settings(data, port, seed, embedded=False)
    write_logs(service, json=settings.json_logs)
    if service == "gateway":
        with _open_port(settings.host, settings.port) as door:
            settings = settings.open_at(door.getsockname()[1])
            _serve_store(settings, door, True, *wiring.gateway(settings))
        return
    if service in PORTS:
        settings = _with_grpc_port(settings, service, grpc_port)
        _check_grpc_ports(settings, [service])
    host, _, number = settings.http_addresses[service].rpartition(":")
    with _open_port(host, int(number), f"{service.upper()}_HTTP_ADDR") as door:
        serve_until_stopped(Server(wiring.service(settings, service, _say), lambda: None), door)


@app.command(epilog='Example: shop rpc catalog GetProduct \'{"sku": "PLAY-01"}\'')
def rpc(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(PORTS)}.")],
    call: Annotated[str, typer.Argument(help="The call's name, as its .proto file has it.")],
    request: Annotated[str, typer.Argument(help="The request, as JSON.")] = "{}",
    address: Annotated[
        str | None,
        typer.Option(help="Where the service answers by gRPC. [default: as settings say]", show_default=False),
    ] = None,
) -> None:
    """Make one call to a service by gRPC, and print its answer as JSON."""
    try:
        print(asyncio.run(ask(service, call, request, address or read_addresses(os.environ).get(service, ""))))
    except SettingsError as error:
        _refuse(str(error))
    except Problem as problem:
        print(f"shop: {STATUSES[problem.kind.slug].name} {problem.kind.slug}: {problem.detail}", file=sys.stderr)
        raise typer.Exit(1) from problem


@app.command(epilog="Examples: shop parity  ·  shop parity --state open  ·  shop parity --json")
def parity(
    state: Annotated[parity_rows.State | None, typer.Option(help="Only what is so far.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List what the shop is measured by: how far each requirement is, and the test or command that proves it."""
    rows = parity_rows.read_rows()
    shown = [row for row in rows if state is None or row.state is state]
    if as_json:
        print(json.dumps([asdict(row) for row in shown], indent=2))
    else:
        print("\n".join(parity_rows.lines_of(shown, rows)))


@app.command("id", epilog="Example: txp ids explain $(shop id 3k9m2wq8d1h5z)")
def id_(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="As it is shown, or an order's number.")],
    data: DATA = Path(".shop"),
) -> None:
    """Say which order's number is behind a text that is shown, or what is shown for a number."""
    try:
        ids = OrderIds(read_id_key(data, os.environ))
        shown = ids.hide(text)
        print(ids.reveal(text) if shown == text else shown)
    except SettingsError as error:
        _refuse(str(error))
    except (Problem, IdInvalid):
        _refuse(f"{text[:80]!r} stands for no order of the shop in {data}.")


app.command(name="load", epilog="Example: shop load --rate 20 --seconds 30 --assert 'p99<300ms' --assert invariants")(
    load_command
)


@app.command(epilog="Example: SHOP_STOCK_REDIS=redis://localhost shop job load-stock")
def job(
    name: Annotated[Job, typer.Argument(help="Which.")],
    data: DATA = Path(".shop"),
    seed: SEED = 42,
    profile: Annotated[Profile, typer.Option(help="As which the shop runs.")] = Profile.EMBEDDED,
) -> None:
    """Do one thing, and end. It may be repeated, also while orders come in."""
    settings = _settings(data, None, seed, profile is Profile.EMBEDDED)
    if settings.stock_redis is None:
        _refuse("SHOP_STOCK_REDIS must name a Redis, for example redis://localhost:6379/0")
    try:
        new, known = asyncio.run(load_stock(settings))
    except TxPatternsError as error:
        _refuse(str(error))
    print(f"{new} of {known} products are new to Redis; the others stay as they are.")


app.add_typer(infra.group, name="infra")


def main() -> None:
    """Run the command line."""
    app()


def forget(data: Path) -> None:
    """Delete the shop's databases in a folder, and nothing else."""
    for service in [*building.TABLES, "stock"]:
        for ending in ("db", "db-wal", "db-shm"):
            (data / f"{service}.{ending}").unlink(missing_ok=True)


def _settings(data: Path, port: int | None, seed: int, embedded: bool) -> Settings:
    try:
        return read_settings(data, port, seed, embedded, os.environ)
    except (SettingsError, ValueError) as error:
        _refuse(str(error))


def _with_grpc_port(settings: Settings, service: str, given: int | None) -> Settings:
    try:
        port = read_grpc_port(service, given, os.environ)
    except SettingsError as error:
        _refuse(str(error))
    return settings if port is None else settings.grpc_at(service, port)


def _check_grpc_ports(settings: Settings, services: Iterable[str]) -> None:
    """Refuse ports that are taken before anything is set up; gRPC itself opens them later."""
    for service in services:
        host, _, number = settings.addresses[service].rpartition(":")
        with _open_port(host, int(number), f"{service.upper()}_SERVICE_ADDR"):
            continue


def _say(addresses: Mapping[str, str]) -> None:
    for service, address in addresses.items():
        print(f"  gRPC       {address} {service}", flush=True)


def _refuse(words: str) -> NoReturn:
    print(f"shop: {words}", file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def _alone_in(data: Path) -> Iterator[None]:
    """Hold a folder for this process: two shops on the same files would take each other's messages."""
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(f"another shop is open on {data}. Close it, or choose another folder with --data.")
        yield


@contextmanager
def _open_port(host: str, port: int, setting: str = "--port") -> Iterator[socket.socket]:
    try:
        door = listen(host, port)
    except OSError as error:
        _refuse(f"{host}:{port} cannot be opened ({error.strerror}). Choose another port with {setting}.")
    with door:
        yield door


def _serve_store(settings: Settings, door: socket.socket, headless: bool, web: FastAPI, bell: Bell) -> None:
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - only compared
    store = f"http://{shown}:{door.getsockname()[1]}"
    print(f"  Store      {store}/")
    print(f"  Orders     {store}/orders")
    print(f"  API        {store}/api/v1")
    print(f"  Health     {store}/health")
    print(f"  Data       {settings.data.resolve()} (Ctrl-C closes the shop; the same folder goes on)", flush=True)
    if not headless and _has_screen():
        webbrowser.open(store)
    serve_until_stopped(Server(web, bell.close), door)


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextmanager
def _services(settings: Settings, seed: int) -> Iterator[None]:
    """Run each service as a process of its own, and stop them all at the end."""
    # The name of one service's port is nothing for all of them.
    env = {name: value for name, value in os.environ.items() if name != "GRPC_PORT"} | {
        "SHOP_COOKIE_SECRET": settings.cookie_secret,
        "SHOP_WEBHOOK_SECRET": settings.webhook_secret,
        "SHOP_ID_KEY": settings.id_key,
        "SHOP_TOKEN_SECRET": " ".join(settings.token_secrets),
        "GATEWAY_SERVICE_ADDR": settings.addresses["gateway"],
    }
    processes = dict[str, subprocess.Popen[bytes]]()
    try:
        for service, address in settings.http_addresses.items():
            command = [sys.executable, "-m", "shop", "run", service, "--data", str(settings.data), "--seed", str(seed)]
            processes[service] = subprocess.Popen(command, env=env)  # noqa: S603 - our own module
            print(f"  {service:<10} {address} (process {processes[service].pid})")
        yield
    finally:
        end_all(processes, STOP_PATIENCE)


def end_all(processes: Mapping[str, subprocess.Popen[bytes]], patience: float) -> None:
    """Ask processes to end, and kill who has not within some seconds: what it had under way is done when it is back."""
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + patience
    for service, process in processes.items():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"shop: {service} (process {process.pid}) did not end in time, and was killed", file=sys.stderr)
            process.kill()
            process.wait()
