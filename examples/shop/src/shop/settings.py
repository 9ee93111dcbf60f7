"""Settings of the shop: from the command line and the environment, with safe secrets of its own making."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from shop.ports import Mode

PORTS = {
    "catalog": 50051,
    "cart": 50052,
    "inventory": 50053,
    "payment": 50054,
    "orders": 50055,
    "checkout": 50056,
    "bank": 50070,
}
"""Where the services answer each other when each is a process of its own."""

HIGHEST_PORT = 65_535
A_DAY = 86_400
PARTITIONS = 6
"""How many partitions a topic has that the shop makes on Kafka."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the shop needs to know.

    ``database`` has ``{service}`` where the service's name belongs: each has a database of its own.
    """

    data: Path
    host: str
    port: int
    seed: int
    window: timedelta
    think: timedelta
    database: str
    broker: str
    cookie_secret: str
    webhook_secret: str
    addresses: Mapping[str, str]
    checkout: Mode
    """Who leads a checkout that does not say it."""

    def open_at(self, port: int) -> Settings:
        """Give the same settings for the port that the system chose where none was wanted in particular."""
        if self.port:
            return self
        shut, open_ = f":{self.port}", f":{port}"
        gateway = self.addresses["gateway"].removesuffix(shut) + open_
        return replace(self, port=port, addresses={**self.addresses, "gateway": gateway})

    def database_of(self, service: str) -> str:
        """Give the URL of a service's database."""
        return self.database.replace("{service}", service)

    @property
    def webhook_url(self) -> str:
        """Where the bank posts its webhooks."""
        return f"http://{self.addresses['gateway']}/webhooks/payments/mock"


class SettingsError(Exception):
    """A setting is missing or makes no sense; the message says which and how to give it."""


def read_settings(data: Path, port: int | None, seed: int, embedded: bool, env: Mapping[str, str]) -> Settings:
    """Put the settings together; the command line goes before the environment.

    Raises:
        SettingsError: for separate processes the database and the broker must be given.
    """
    host = env.get("SHOP_HOST", "127.0.0.1")
    if port is not None:
        port = _port("--port", str(port))
    elif env.get("SHOP_PORT"):
        port = _port("SHOP_PORT", env["SHOP_PORT"])
    else:
        port = _port("HTTP_PORT", env.get("HTTP_PORT") or "8080")
    kept = _secrets(data, env)
    database, broker = f"sqlite+aiosqlite:///{data.resolve()}/{{service}}.db", "memory://"
    if not embedded:
        database, broker = _servers(env)
    addresses = {"gateway": env.get("GATEWAY_SERVICE_ADDR", f"{host}:{port}")}
    for service, usual in PORTS.items():
        addresses[service] = env.get(f"{service.upper()}_SERVICE_ADDR", f"127.0.0.1:{usual}")
    for service, address in addresses.items():
        _check_address(f"{service.upper()}_SERVICE_ADDR", address)
    return Settings(
        data=data,
        host=host,
        port=port,
        seed=seed,
        window=_seconds("SHOP_PAYMENT_WINDOW", env, 30),
        think=_seconds("SHOP_BANK_DELAY", env, 1.5),
        database=database,
        broker=broker,
        cookie_secret=kept["cookie"],
        webhook_secret=kept["webhook"],
        addresses=addresses,
        checkout=_mode("SHOP_CHECKOUT", env),
    )


def _mode(name: str, env: Mapping[str, str]) -> Mode:
    given = env.get(name) or Mode.CHOREOGRAPHED
    if given not in list(Mode):
        raise SettingsError(f"{name} must be one of {', '.join(Mode)}; it is {given!r}.")
    return Mode(given)


def _port(name: str, given: str) -> int:
    if not _is_port(given):
        raise SettingsError(f"{name} must be a port, from 0 (any that is free) to {HIGHEST_PORT}; it is {given!r}.")
    return int(given)


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(HIGHEST_PORT)) and int(text) <= HIGHEST_PORT


def _check_address(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and _is_port(port)):
        raise SettingsError(f"{name} must be a host and a port, for example 127.0.0.1:50051; it is {address!r}.")


def _seconds(name: str, env: Mapping[str, str], usual: float) -> timedelta:
    given = env.get(name) or str(usual)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= A_DAY:
        raise SettingsError(f"{name} must be a number of seconds, from 0 to {A_DAY} (a day); it is {given!r}.")
    return timedelta(seconds=seconds)


def _servers(env: Mapping[str, str]) -> tuple[str, str]:
    database = env.get("SHOP_DATABASE", "")
    brokers = env.get("KAFKA_BROKERS") or env.get("KAFKA_ADDR")
    broker = env.get("SHOP_BROKER") or (f"kafka://{brokers}" if brokers else "")
    if "{service}" not in database:
        raise SettingsError(
            "SHOP_DATABASE must name a database for each service, for example "
            "SHOP_DATABASE='postgresql+asyncpg://shop@localhost/shop_{service}'"
        )
    if not broker:
        raise SettingsError("SHOP_BROKER must name the broker, for example SHOP_BROKER='kafka://localhost:9092'")
    if broker.startswith("kafka://") and "create_topics=" not in broker:
        broker += f"{'&' if '?' in broker else '?'}create_topics={PARTITIONS}"
    return database, broker


def _secrets(data: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets, or make them once and keep them where only the owner reads."""
    given = {"cookie": env.get("SHOP_COOKIE_SECRET"), "webhook": env.get("SHOP_WEBHOOK_SECRET")}
    if all(given.values()):
        return {name: value for name, value in given.items() if value}
    data.mkdir(parents=True, exist_ok=True)
    file = data / "secrets.json"
    if not file.exists():
        made = {
            "cookie": secrets.token_urlsafe(32),
            "webhook": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        }
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(made, out)
    kept: dict[str, str] = json.loads(file.read_text())
    return kept | {name: value for name, value in given.items() if value}
