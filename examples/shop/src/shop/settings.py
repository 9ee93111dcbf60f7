"""Settings of the shop: from the command line and the environment, with safe secrets of its own making."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from redis import ConnectionPool

from shop.given import SettingsError, is_port, one_of, one_of_two, read_calls, read_port, read_seconds, read_switch
from shop.own_secrets import read_secrets, token_secrets_in
from shop.ports import Mode

PORTS = {
    "catalog": 50051,
    "cart": 50052,
    "inventory": 50053,
    "payment": 50054,
    "orders": 50055,
    "checkout": 50056,
    "users": 50057,
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
    "users": 50067,
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


LIMITS = {"read": 1_200, "change": 240, "checkout": 40, "webhook": 6_000}
"""How often one visitor may ask in a minute, by the class of what they ask; 0 is as often as they like."""
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
    database: str = field(repr=False)
    broker: str = field(repr=False)
    cookie_secret: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    id_key: str = field(repr=False)
    """What it takes to make of an order's id the text that is shown, and back: the same for ever."""
    addresses: Mapping[str, str]
    """Where the gateway listens, and the services by gRPC."""
    http_addresses: Mapping[str, str]
    """Where the services listen for HTTP."""
    checkout: Mode
    """Who leads a checkout that does not say it."""
    redis: str | None = field(repr=False)
    """The URL of a Redis that several processes share for limits and for what they remember."""
    stock_redis: str | None = field(repr=False)
    """The URL of the Redis that keeps the stock; none: it is in the database."""
    limits: Mapping[str, int]
    """How often one visitor may ask in a minute."""
    away: timedelta
    """How long a service is not asked that did not answer several times in a row."""
    token_secrets: tuple[str, ...] = field(repr=False)
    """What signs access tokens and makes refresh tokens; those behind the first are still believed."""
    access_lasts: timedelta
    """How long an access token is good."""
    demo_users: bool
    """Whether a new shop has the demo's accounts, whose password everybody knows."""
    json_logs: bool
    """Whether the log is for programs; otherwise for whoever looks at the terminal."""

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


def read_settings(data: Path, port: int | None, seed: int, embedded: bool, env: Mapping[str, str]) -> Settings:
    """Put the settings together; the command line goes before the environment.

    Raises:
        SettingsError: for separate processes the database and the broker must be given.
    """
    host = env.get("SHOP_HOST", "127.0.0.1")
    if port is not None:
        port = read_port("--port", str(port))
    elif env.get("SHOP_PORT"):
        port = read_port("SHOP_PORT", env["SHOP_PORT"])
    else:
        port = read_port("HTTP_PORT", env.get("HTTP_PORT") or "8080")
    kept = read_secrets(data, env)
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
        window=read_seconds("SHOP_PAYMENT_WINDOW", env, 30),
        think=read_seconds("SHOP_BANK_DELAY", env, 1.5),
        database=database,
        broker=broker,
        cookie_secret=kept["cookie"],
        webhook_secret=kept["webhook"],
        id_key=kept["ids"],
        addresses=addresses,
        http_addresses=http_addresses,
        checkout=_mode("SHOP_CHECKOUT", env),
        redis=_redis(env),
        stock_redis=_redis_url("SHOP_STOCK_REDIS", "SHOP_STOCK_REDIS", env.get("SHOP_STOCK_REDIS") or None),
        away=read_seconds("SHOP_AWAY", env, 5),
        limits={name: read_calls(f"SHOP_LIMIT_{name.upper()}", env, usual) for name, usual in LIMITS.items()},
        token_secrets=token_secrets_in(kept["token"]),
        access_lasts=read_seconds("SHOP_ACCESS_LASTS", env, 300),
        demo_users=read_switch("SHOP_DEMO_USERS", env, embedded),
        json_logs=one_of_two("SHOP_LOG", env, "text", "json") == "json",
    )


def read_grpc_port(service: str, given: int | None, env: Mapping[str, str]) -> int | None:
    """Give the port at which a service that runs alone shall listen for gRPC, if one is named.

    The command line goes first. ``GRPC_PORT`` is that of whichever service the process runs.

    Raises:
        SettingsError: it is no port, or two names say two things.
    """
    if given is not None:
        return read_port("--grpc-port", str(given))
    name, value = one_of(env, "GRPC_PORT", *OWN_PORTS.get(service, ()))
    return read_port(name, value) if value else None


def _mode(name: str, env: Mapping[str, str]) -> Mode:
    given = env.get(name) or Mode.CHOREOGRAPHED
    if given not in list(Mode):
        raise SettingsError(f"{name} must be one of {', '.join(Mode)}; it is {given!r}.")
    return Mode(given)


def read_addresses(env: Mapping[str, str]) -> dict[str, str]:
    """Give where each service answers by gRPC.

    Raises:
        SettingsError: an address or a port is none, or two names say two things.
    """
    addresses = {}
    for service, usual in PORTS.items():
        name, value = one_of(env, *OWN_PORTS.get(service, ()))
        port = read_port(name, value) if value else usual
        names = (f"{service.upper()}_SERVICE_ADDR", *OTHER_NAMES.get(service, ()))
        addresses[service] = _address(env, f"127.0.0.1:{port}", *names)
    return addresses


def _read_http_addresses(env: Mapping[str, str]) -> dict[str, str]:
    return {
        service: _address(env, f"127.0.0.1:{usual}", HTTP_NAMES.get(service, f"{service.upper()}_HTTP_ADDR"))
        for service, usual in HTTP_PORTS.items()
    }


def _address(env: Mapping[str, str], usual: str, *names: str) -> str:
    name, address = one_of(env, *names)
    host, _, port = (address or usual).rpartition(":")
    if not (host and is_port(port)):
        raise SettingsError(f"{name} must be a host and a port, for example 127.0.0.1:50051; it is {address!r}.")
    return f"{host}:{port}"


def _redis(env: Mapping[str, str]) -> str | None:
    address = env.get("REDIS_ADDR")
    url = env.get("SHOP_REDIS") or (f"redis://{address}" if address else None)
    return _redis_url("SHOP_REDIS, or redis:// and REDIS_ADDR,", "SHOP_REDIS", url)


def _redis_url(said: str, name: str, url: str | None) -> str | None:
    """Give the URL of a Redis; none of it is ever shown, for it may carry a password."""
    if url is not None:
        try:
            ConnectionPool.from_url(url)
        except ValueError:
            raise SettingsError(
                f"{said} must be the URL of a Redis, for example {name}='redis://localhost:6379/0'"
            ) from None
    return url


def _servers(env: Mapping[str, str]) -> tuple[str, str]:
    database = env.get("SHOP_DATABASE") or _database_of_parts(env)
    _, brokers = one_of(env, "KAFKA_BROKERS", "KAFKA_ADDR")
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
    port = read_port("DB_PORT", env.get("DB_PORT") or "5432")
    who = f"{user}:{password}" if password else user
    return f"postgresql+asyncpg://{who}@{host}:{port}/{name}_{{service}}"
