"""What the adapter is told: our own few settings, and the driver's options, checked and otherwise untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from txpatterns.errors import ConfigurationError, UnsafeSettings
from txpatterns.text import is_secret

OVERHEAD = 16 * 1024
"""Bytes that the headers which name a message, and Kafka's framing, may add to what counts as its size."""

Config = dict[str, Any]

_BOTH = {"client.id": "txpatterns", "socket.keepalive.enable": True}

# Order and durability hang on these: H58. With the gapless guarantee a failed request stops the producer, so that
# nothing which follows it in a partition is stored; without it the next batch would be. A message that times out in the
# driver's queue is passed over, and what follows it is stored: that happens to a process that was stopped for long. So
# the driver gives up none by itself: our own deadline drops all that is under way together.
_PRODUCER_FIXED = {
    "enable.idempotence": True,
    "acks": "all",
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
}
_CONSUMER_FIXED = {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}
# No message waits for so long: the driver is told when a publication is complete. Without it, a publication that is
# being handed over goes out in as many requests as the driver's threads find time for, which cost the broker twice.
_PRODUCER = {"partitioner": "murmur2_random", "linger.ms": 3, "statistics.interval.ms": 0}
# Without the short back-off a consumer that empties its local queue waits a second for more; and a partition that is
# resumed waits until the fetch that was sent without it has ended.
_CONSUMER = {
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 100,
    "partition.assignment.strategy": "cooperative-sticky",
}

_SAME = {"request.required.acks": "acks", "retries": "message.send.max.retries"} | {
    "delivery.timeout.ms": "message.timeout.ms",
    "max.in.flight": "max.in.flight.requests.per.connection",
}
_OURS = {"bootstrap.servers", "metadata.broker.list", "group.id", "transactional.id", "delivery.report.only.error"}


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Settings of the adapter.

    Args:
        servers: ``host:port,host:port``.
        options: driver options for both directions; ``producer`` and ``consumer`` for one of them.
        deadline: how long a publication may take before its outcome is unknown.
        max_payload: the largest message in bytes, headers and key included. The topics must allow a little more.
        max_in_flight: how many messages, ``max_in_flight_bytes`` how many bytes, a subscriber may hold
            unacknowledged; at the bound it stops reading until some are acknowledged.
        revoke_wait: how long a rebalance waits for messages that are being handled.
        commit_interval: the least time between two commits of offsets.
        create_topics: make missing topics with this many partitions; 0, the default, never makes one.
        replication: copies of a topic that is made.
    """

    servers: str
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    producer: Mapping[str, object] = field(default_factory=dict, repr=False)
    consumer: Mapping[str, object] = field(default_factory=dict, repr=False)
    deadline: timedelta = timedelta(seconds=30)
    max_payload: int = 1_000_000
    max_in_flight: int = 2000
    max_in_flight_bytes: int = 64 * 1024 * 1024
    revoke_wait: timedelta = timedelta(seconds=5)
    commit_interval: timedelta = timedelta(milliseconds=150)
    create_topics: int = 0
    replication: int = 1

    def __post_init__(self) -> None:
        if not self.servers or self.deadline <= timedelta(0) or self.max_payload <= 0 or self.max_in_flight <= 0:
            raise ConfigurationError("Kafka needs servers, and a positive deadline, max_payload and max_in_flight.")
        for name in {**self.options, **self.producer, **self.consumer}:
            if name in _OURS:
                raise ConfigurationError(f"The Kafka option {name} is set by the adapter.", fix="Leave it out.")
        _refuse_other_than(_PRODUCER_FIXED, {**self.options, **self.producer})
        _refuse_other_than(_CONSUMER_FIXED, {**self.options, **self.consumer})
        self._refuse_disorder({_SAME.get(n, n): v for n, v in {**self.options, **self.producer}.items()})

    def _refuse_disorder(self, given: Mapping[str, object]) -> None:
        _refuse(
            int(str(given.get("message.send.max.retries", 1000))) < 1000,
            "message.send.max.retries must be at least 1000",
        )
        flights = int(str(given.get("max.in.flight.requests.per.connection", 5)))
        _refuse(flights > 5, "max.in.flight.requests.per.connection must not be above 5")
        _refuse(given.get("queuing.strategy", "fifo") != "fifo", "queuing.strategy must be fifo")
        _refuse(given.get("partitioner") == "random", "partitioner must not be random: keys keep to a partition")

    def common_config(self) -> Config:
        """Give the driver's configuration for administration."""
        return {**_BOTH, **self.options, "bootstrap.servers": self.servers}

    def producer_config(self) -> Config:
        """Give the driver's configuration for publishing."""
        sizes = {"message.max.bytes": self.max_payload + OVERHEAD}
        return {**_PRODUCER, **sizes, **self.common_config(), **self.producer, **_PRODUCER_FIXED}

    def consumer_config(self, group: str) -> Config:
        """Give the driver's configuration for a member of a group."""
        chosen = {**_CONSUMER, **self.common_config(), **self.consumer, **_CONSUMER_FIXED, "group.id": group}
        if chosen.get("group.protocol") == "consumer":  # there the broker assigns
            chosen.pop("partition.assignment.strategy")
        return chosen

    def mask(self, text: str) -> str:
        """Take every secret that we were given out of a text."""
        given = [*self.options.items(), *self.producer.items(), *self.consumer.items()]
        secrets = {str(value) for name, value in given if is_secret(name)}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):  # one may begin with another
            text = text.replace(secret, "***")
        return text


def settings_from_url(url: str, **options: object) -> KafkaSettings:
    """Read ``kafka://user:password@host:port,host:port?option=value``.

    An option is one of ours (``deadline``, in seconds; ``create_topics``; ...) or the driver's by its own name,
    with ``producer.`` or ``consumer.`` in front where it concerns one direction. Keyword options win.

    Raises:
        ConfigurationError: the URL or an option is not understood. The text never repeats a value.
    """
    parts = urlsplit(url)
    login, _, servers = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not servers or parts.path not in ("", "/") or parts.fragment:
        raise ConfigurationError("This is not the URL of a Kafka broker.", fix="Write kafka://host:port,host:port")
    given: dict[str, object] = dict(parse_qsl(parts.query, keep_blank_values=True))
    driver: dict[str, dict[str, object]] = {"options": {}, "producer": {}, "consumer": {}}
    if login:
        user, _, password = login.partition(":")
        driver["options"] = {"sasl.username": unquote(user), "sasl.password": unquote(password)}
    ours: dict[str, object] = {}
    for name, value in given.items():
        side, dot, rest = name.partition(".")
        if name in _READ:
            ours[name] = _read(name, value)
        elif dot and side in ("producer", "consumer"):
            driver[side][rest] = value
        else:
            driver["options"][name] = value
    for name, chosen in driver.items():
        more = options.pop(name, None)
        chosen.update(more if isinstance(more, Mapping) else {})
    try:
        return KafkaSettings(servers, **driver, **{**ours, **options})  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigurationError(f"Kafka: {error}", fix="Driver options go into options={...}.") from None


_READ = {
    "deadline": timedelta,
    "revoke_wait": timedelta,
    "commit_interval": timedelta,
    "max_payload": int,
    "max_in_flight": int,
    "max_in_flight_bytes": int,
    "create_topics": int,
    "replication": int,
}


def _read(name: str, value: object) -> object:
    try:
        return timedelta(seconds=float(str(value))) if _READ[name] is timedelta else int(str(value))
    except ValueError:
        raise ConfigurationError(f"The option {name} of the Kafka URL is not a number.") from None


def _refuse_other_than(fixed: Mapping[str, object], given: Mapping[str, object]) -> None:
    for name, value in given.items():
        wanted = fixed.get(_SAME.get(name, name))
        same = str(value).lower() == str(wanted).lower() or (wanted == "all" and str(value) == "-1")
        _refuse(wanted is not None and not same, f"{name} must be {str(wanted).lower()}")


def _refuse(unsafe: bool, rule: str) -> None:
    if unsafe:
        raise UnsafeSettings(
            f"Kafka: {rule}.", fix="Leave the option out: order per key, or every message, would be at risk."
        )
