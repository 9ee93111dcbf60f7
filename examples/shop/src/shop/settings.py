"""Settings of the shop: from the command line and the environment, with safe secrets of its own making."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from shop.ports import Mode
from txpatterns.errors import WebhookSecretInvalid
from txpatterns.integrations.webhooks import WebhookSecrets, new_secret

PORTS = {
    "catalog": 50051,
    "cart": 50052,
    "inventory": 50053,
    "payment": 50054,
    "orders": 50055,
    "checkout": 50056,
    "pricing": 50058,
    "wallet": 50059,
}
"""Where the services answer each other by gRPC when each is a process of its own."""
HTTP_PORTS = {
    "catalog": 50061,
    "cart": 50062,
    "inventory": 50063,
    "payment": 50064,
    "orders": 50065,
    "checkout": 50066,
    "pricing": 50068,
    "wallet": 50069,
    "bank": 50070,
}
"""Where they answer probes, and the same calls as JSON. The bank is a company of its own, and has nothing else."""

OTHER_NAMES = {"catalog": ("PRODUCT_SERVICE_ADDR",)}
"""Further names of a service's address."""
OWN_PORTS = {"checkout": ("CHECKOUT_SERVICE_PORT",)}
"""Names of a service's port that no other service takes for its own."""
HTTP_NAMES = {"bank": "BANK_SERVICE_ADDR"}

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
    """Where the gateway listens, and the services by gRPC."""
    http_addresses: Mapping[str, str]
    """Where the services listen for HTTP."""
    checkout: Mode
    """Who leads a checkout that does not say it."""
    redis: str = ""
    """Where the stock is kept in Redis; nowhere: it is in the database."""

    def open_at(self, port: int) -> Settings:
        """Give the same settings for the port that the system chose where none was wanted in particular."""
        if self.port:
            return self
        shut, open_ = f":{self.port}", f":{port}"
        gateway = self.addresses["gateway"].removesuffix(shut) + open_
        return replace(self, port=port, addresses={**self.addresses, "gateway": gateway})

    def grpc_at(self, service: str, port: int) -> Settings:
        """Give the same settings for a service that listens for gRPC at another port."""
        host = self.addresses[service].rpartition(":")[0]
        return replace(self, addresses={**self.addresses, service: f"{host}:{port}"})

    def database_of(self, service: str) -> str:
        """Give the URL of a service's database."""
        return self.database.replace("{service}", service)

    @property
    def tcc_secret(self) -> str:
        """What the checkout signs with when it asks participants: made of a secret that all processes have already."""
        return hmac.new(self.cookie_secret.encode(), b"participants of TCC", sha256).hexdigest()

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
    addresses, http_addresses = read_addresses(env), _read_http_addresses(env)
    addresses["gateway"] = _address(env, f"{host}:{port}", "GATEWAY_SERVICE_ADDR")
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
        http_addresses=http_addresses,
        checkout=_mode("SHOP_CHECKOUT", env),
        redis=env.get("SHOP_STOCK_REDIS", ""),
    )


def read_grpc_port(service: str, given: int | None, env: Mapping[str, str]) -> int | None:
    """Give the port at which a service that runs alone shall listen for gRPC, if one is named.

    The command line goes first. ``GRPC_PORT`` is that of whichever service the process runs.

    Raises:
        SettingsError: it is no port, or two names say two things.
    """
    if given is not None:
        return _port("--grpc-port", str(given))
    name, value = _one_of(env, "GRPC_PORT", *OWN_PORTS.get(service, ()))
    return _port(name, value) if value else None


def _one_of(env: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Give the name that is set, out of several for one thing, and its value, which is empty where none is."""
    found = [(name, env[name]) for name in names if env.get(name)]
    if len({value for _, value in found}) > 1:
        said = " and ".join(f"{name}={value}" for name, value in found)
        raise SettingsError(f"{said} are two names for one thing, and disagree: set one of them.")
    return found[0] if found else ("", "")


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


def read_addresses(env: Mapping[str, str]) -> dict[str, str]:
    """Give where each service answers by gRPC.

    Raises:
        SettingsError: an address or a port is none, or two names say two things.
    """
    addresses = {}
    for service, usual in PORTS.items():
        name, value = _one_of(env, *OWN_PORTS.get(service, ()))
        port = _port(name, value) if value else usual
        names = (f"{service.upper()}_SERVICE_ADDR", *OTHER_NAMES.get(service, ()))
        addresses[service] = _address(env, f"127.0.0.1:{port}", *names)
    return addresses


def _read_http_addresses(env: Mapping[str, str]) -> dict[str, str]:
    return {
        service: _address(env, f"127.0.0.1:{usual}", HTTP_NAMES.get(service, f"{service.upper()}_HTTP_ADDR"))
        for service, usual in HTTP_PORTS.items()
    }


def _address(env: Mapping[str, str], usual: str, *names: str) -> str:
    name, address = _one_of(env, *names)
    host, _, port = (address or usual).rpartition(":")
    if not (host and _is_port(port)):
        raise SettingsError(f"{name} must be a host and a port, for example 127.0.0.1:50051; it is {address!r}.")
    return f"{host}:{port}"


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
    database = env.get("SHOP_DATABASE") or _database_of_parts(env)
    _, brokers = _one_of(env, "KAFKA_BROKERS", "KAFKA_ADDR")
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


def _database_of_parts(env: Mapping[str, str]) -> str:
    """Put a URL together of the parts by which others name a PostgreSQL server; nothing, where none is named."""
    if not any(env.get(name) for name in ("DB_HOST", "DB_PORT", "DB_NAME")):
        return ""
    user, password = quote(env.get("DB_USER") or "postgres", safe=""), quote(env.get("DB_PASSWORD") or "", safe="")
    host, name = env.get("DB_HOST") or "localhost", quote(env.get("DB_NAME") or "ecommerce", safe="")
    port = _port("DB_PORT", env.get("DB_PORT") or "5432")
    who = f"{user}:{password}" if password else user
    return f"postgresql+asyncpg://{who}@{host}:{port}/{name}_{{service}}"


def _secrets(data: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets, or make them once and keep them where only the owner reads."""
    given = {"cookie": env.get("SHOP_COOKIE_SECRET"), "webhook": env.get("SHOP_WEBHOOK_SECRET")}
    if given["webhook"]:
        try:
            WebhookSecrets(given["webhook"])
        except WebhookSecretInvalid as error:
            raise SettingsError(f"SHOP_WEBHOOK_SECRET: {error.message} {error.remedy}") from None
    if all(given.values()):
        return {name: value for name, value in given.items() if value}
    data.mkdir(parents=True, exist_ok=True)
    file = data / "secrets.json"
    if not file.exists():
        made = {
            "cookie": secrets.token_urlsafe(32),
            "webhook": new_secret(),
        }
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(made, out)
    kept: dict[str, str] = json.loads(file.read_text())
    return kept | {name: value for name, value in given.items() if value}
