"""What the adapter is told: our own few settings, and pika's options in the URL, checked and otherwise untouched."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from txpatterns.errors import ConfigurationError, UnsafeSettings
from txpatterns.text import masked

SIZES = (1, 2, 4, 8, 16)
"""How many queues a group may have for a topic: each divides the slots evenly."""

LONGEST_NAME = 255
"""Bytes of a name in AMQP."""


@dataclass(frozen=True, slots=True)
class RabbitMQSettings:
    """Settings of the adapter.

    Args:
        url: ``amqp://user:password@host:5672/vhost``, with pika's own options as its query.
        partitions: how many queues a group has for each topic: 1, 2, 4, 8 or 16. It is the most members that can
            share a topic's work, and cannot be changed for a group that has queues.
        deadline: how long a publication may take before its outcome is unknown.
        max_payload: the largest message in bytes, headers and key included.
        declare: make exchanges and queues that are missing. Without it they have to be there.
        exchange: one topic exchange for all topics, with ``topic.type`` as the routing key. Without it each topic
            is a topic exchange of its own, and the routing key is the type.
    """

    url: str = field(repr=False)
    partitions: int = 4
    deadline: timedelta = timedelta(seconds=30)
    max_payload: int = 1_000_000
    declare: bool = True
    exchange: str | None = None

    def __post_init__(self) -> None:
        if self.partitions not in SIZES:
            raise ConfigurationError(f"RabbitMQ: partitions is one of {', '.join(map(str, SIZES))}.")
        if self.deadline <= timedelta(0) or self.max_payload <= 0:
            raise ConfigurationError("RabbitMQ needs a positive deadline and max_payload.")
        if self.exchange is not None:
            refuse_name(self.exchange, "the exchange")
        heartbeat = dict(parse_qsl(urlsplit(self.url).query)).get("heartbeat")
        if heartbeat == "0":
            raise UnsafeSettings(
                "RabbitMQ: heartbeat must not be 0.", fix="Leave it out: a dead server would never be noticed."
            )

    @property
    def shown(self) -> str:
        """The address without the password."""
        return masked(self.url)

    def mask(self, text: str) -> str:
        """Take the password out of a text."""
        password = urlsplit(self.url).password
        for secret in {password, unquote(password)} if password and password != "guest" else ():  # noqa: S105 - known
            text = text.replace(secret, "***")
        return text


def refuse_name(name: str, what: str) -> None:
    """Refuse what RabbitMQ cannot have as a name.

    Raises:
        ConfigurationError: it is too long, RabbitMQ's own, or no text.
    """
    if not 0 < len(name.encode(errors="surrogatepass")) <= LONGEST_NAME or name.startswith("amq."):
        raise ConfigurationError(
            f"RabbitMQ cannot have {what} under the name {name[:80]!r}.",
            fix=f"A name has at most {LONGEST_NAME} bytes and does not begin with amq.",
        )


def settings_from_url(url: str, **options: object) -> RabbitMQSettings:
    """Read ``amqp://user:password@host:5672/vhost?partitions=8``; keyword options win.

    What is not ours in the query is pika's (``heartbeat``, ``ssl_options``, ...).

    Raises:
        ConfigurationError: the URL or an option is not understood. The text never repeats a value.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or parts.fragment:
        raise ConfigurationError(
            "This is not the URL of a RabbitMQ broker.", fix="Write amqp://user:password@host:5672/vhost"
        )
    ours: dict[str, object] = {}
    theirs: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _READ:
            ours[name] = _read(name, value)
        else:
            theirs.append((name, value))
    try:
        return RabbitMQSettings(urlunsplit(parts._replace(query=urlencode(theirs))), **{**ours, **options})  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigurationError(f"RabbitMQ: {error}", fix="pika's own options go into the URL.") from None


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text))


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_READ = {"partitions": int, "deadline": _seconds, "max_payload": int, "declare": _truth, "exchange": str}


def _read(name: str, value: str) -> object:
    try:
        return _READ[name](value)  # type: ignore[operator]  # each reads a text
    except (ValueError, KeyError):
        raise ConfigurationError(f"The option {name} of the RabbitMQ URL is not understood.") from None
