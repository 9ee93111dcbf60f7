"""What the adapter is told. Credentials are none of it: boto3 finds them where every AWS program keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

from txpatterns.errors import ConfigurationError

REQUEST_BYTES = 262_144
"""What SNS takes in one request, and in one message, unless a topic is told otherwise."""


@dataclass(frozen=True, slots=True)
class SqsSettings:
    """Settings of the adapter.

    Args:
        region: the region of AWS.
        endpoint: another address than AWS's own, for example of an emulator.
        fan_out: a topic is an SNS topic and each group has a queue of its own; False: a topic is a queue, without
            groups.
        ordered: FIFO topics and queues; False: standard ones, which keep no order and remember no ids.
        create: make topics, queues and subscriptions that are missing; False: only use those that are there.
        names: the name that AWS knows, by our own: of a topic, or of a queue as ``group/topic``.
        deadline: how long a publication may take before its outcome is unknown.
        max_payload: the largest message in bytes, headers and key included.
        visibility: how long what a member holds stays its own without an extension; the shortest way back for the
            messages of a member that was killed.
        poll: how long a request waits for messages, at most 20 s.
        max_in_flight: how many messages a subscriber may hold unacknowledged.
        receivers: how many requests of a subscriber wait for messages of one queue at the same time.
    """

    region: str
    endpoint: str | None = None
    fan_out: bool = True
    ordered: bool = True
    create: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    deadline: timedelta = timedelta(seconds=30)
    max_payload: int = 180_000
    visibility: timedelta = timedelta(seconds=30)
    poll: timedelta = timedelta(seconds=20)
    max_in_flight: int = 200
    receivers: int = 2

    def __post_init__(self) -> None:
        if not self.region or self.deadline <= timedelta(0) or min(self.max_in_flight, self.receivers) <= 0:
            raise ConfigurationError("SQS needs a region, and a positive deadline, max_in_flight and receivers.")
        if not 0 < self.max_payload <= 180_000:
            raise ConfigurationError(
                "max_payload of SQS must lie between 1 and 180000 bytes.", fix="Send the place of what is larger."
            )
        if not timedelta(seconds=2) <= self.visibility <= timedelta(hours=12):
            raise ConfigurationError("visibility of SQS must lie between 2 seconds and 12 hours.")
        if not timedelta(seconds=1) <= self.poll <= timedelta(seconds=20):
            raise ConfigurationError("poll of SQS must lie between 1 and 20 seconds.")


def settings_from_url(url: str, **options: object) -> SqsSettings:
    """Read ``sqs://region?option=value``. Keyword options win.

    Raises:
        ConfigurationError: the URL or an option is not understood. The text never repeats a value.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigurationError(
            "The URL of SQS takes no credentials.",
            fix="Leave them to boto3: a role, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws.",
        )
    if parts.scheme != "sqs" or not parts.netloc or parts.path not in ("", "/") or parts.fragment:
        raise ConfigurationError("This is not the URL of SQS.", fix="Write sqs://region, as sqs://eu-central-1")
    given = {name: _read(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    try:
        return SqsSettings(parts.netloc, **{**given, **options})  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigurationError(f"SQS: {error}") from None


_SECONDS = ("deadline", "visibility", "poll")
_NUMBERS = ("max_payload", "max_in_flight", "receivers")
_SWITCHES = ("fan_out", "ordered", "create")


def _read(name: str, text: str) -> object:
    try:
        if name in _SECONDS:
            return timedelta(seconds=float(text))
        if name in _NUMBERS:
            return int(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"The option {name} of the URL of SQS is not a number.") from None
    if name in _SWITCHES:
        if text not in ("true", "false"):
            raise ConfigurationError(f"The option {name} of the URL of SQS is neither true nor false.")
        return text == "true"
    return text
