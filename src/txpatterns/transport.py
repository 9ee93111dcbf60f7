"""The seam to a broker: publish a batch and tell each outcome; subscribe and get deliveries.

Batching, per-key order, back-off, deduplication and dead letters live in the relay and the consumer, once.
An adapter only speaks its broker's language; ``txpatterns.testing.conformance`` proves that it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from txpatterns.errors import UnsafeSettings
from txpatterns.findings import Finding
from txpatterns.messages import EPOCH, Event, Message, describe


class Verdict(StrEnum):
    """What became of one publication."""

    CONFIRMED = "confirmed"
    """The broker has stored this very message."""
    REJECTED = "rejected"
    """The broker will never accept it: too large, not allowed, no such topic."""
    UNAVAILABLE = "unavailable"
    """The whole broker takes nothing now: not reached, blocked, throttled. Certainly not stored; burns no attempt."""
    POSTPONED = "postponed"
    """This message's topic takes nothing now: missing, not allowed, no queue, no leader. Burns no attempt.

    Other topics go on. The topic is tried with one message, after a second, then more and more seldom."""
    UNKNOWN = "unknown"
    """It may or may not be stored: a lost reply, a time-out, a fatal client. Published again, in order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one publication, with the broker's reason where it gave one."""

    verdict: Verdict
    error: Exception | None = None


CONFIRMED = Outcome(Verdict.CONFIRMED)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker does by itself; the relay and the conformance suite act on it.

    ``ordered_prefix``: of the messages of one key that are in flight together, those stored are always a prefix;
    after a failure none that follows it is stored. Only then may a key have several unconfirmed messages.
    ``confirms_handling``: a publication is confirmed when every group has acknowledged it, so it has no deadline.
    ``max_batch``: how many messages ``publish`` takes at once; what the relay reads at a time is its own.
    ``max_payload``: bytes, headers and key included; None when there is no limit.
    ``deadline``: how long a publication may take before what was not told of it is unknown. An adapter that can
    withdraw what it has not sent does so then; the relay gives up a little later.
    ``ordered``: the messages of a key come in the order in which they were published. Where it is False nothing keeps
    the order of a key behind the broker: events with ``order="strict"`` are refused, and a warning tells of the others.
    ``retains``: a new group is given what was published before it was declared.
    ``pipelines_keys``: a member may be given later messages of a key while earlier ones are not acknowledged.
    ``horizon``: how long the broker keeps what nobody has read; None where it keeps it until it is read.
    """

    ordered_prefix: bool = False
    groups: bool = True
    confirms_handling: bool = False
    max_batch: int = 1000
    max_payload: int | None = None
    deadline: timedelta = timedelta(seconds=30)
    ordered: bool = True
    retains: bool = True
    pipelines_keys: bool = True
    horizon: timedelta | None = None


class Publisher(Protocol):
    """Sends messages and tells what became of each."""

    @property
    def capabilities(self) -> Capabilities:
        """What the broker does by itself."""

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send the messages in order, and yield outcomes by message id as they come.

        Each id is told at most once; an id that was never told when the iterator ends or raises is unknown.
        Cancelling gives up waiting: what was not told is unknown.
        """


class Delivery(Protocol):
    """One message as it came from the broker, to be acknowledged when its effect is committed or stored."""

    @property
    def message(self) -> Message:
        """The message, with the bytes as they came."""

    @property
    def redelivered(self) -> bool:
        """Whether the broker says that it gave this message out before."""

    async def ack(self) -> None:
        """Tell the broker that this message is done. Harmless when the delivery is no longer ours."""


class Subscriber(Protocol):
    """Receives messages for a group: each message goes to one member of each group."""

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Join the group; the iterator yields deliveries in small batches, in order per key.

        The group starts at the first message that the broker still has, or, where it does not retain what no group
        waits for (``Capabilities.retains``), at the first that was published after it was declared. Leaving stops the
        intake; what is not acknowledged comes again at once, here or to another member.
        """


@runtime_checkable
class Broker(Publisher, Subscriber, Protocol):
    """Both halves, with a lifetime: entering connects, leaving closes, and twice is harmless."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...


@runtime_checkable
class Declares(Protocol):
    """A broker that is told of groups; one where a new group gets what was published before it need not be."""

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Say that a group is going to read these topics: from then on it misses nothing, also before it subscribes.

        Without input or output, and repeatable; a group may be given more topics later. What the broker needs for it
        is made when the broker is entered, or first used after that.
        """


def declare(broker: Broker, group: str, topics: Sequence[str]) -> None:
    """Tell a broker of a group that is going to read these topics, where it is told of groups."""
    if isinstance(broker, Declares):
        broker.declare(group, topics)


def check_order(broker: Broker, event: type[Event]) -> None:
    """Refuse an event whose order this broker would not keep.

    Raises:
        UnsafeSettings: it has ``order="strict"``.
    """
    if describe(event).order == "strict" and not broker.capabilities.ordered:
        raise UnsafeSettings(f"{event.__name__} {UNORDERED}", fix=ORDER)


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits for a group in one queue or partition; None where the broker cannot tell it."""

    topic: str
    group: str
    queue: str
    """What the broker calls it: a queue's name, a partition."""
    ready: int | None = None
    """Messages that wait to be given out: a log's lag, a queue's depth."""
    in_flight: int | None = None
    """Messages that were given out and are not acknowledged."""
    oldest: timedelta | None = None
    """How long the oldest that waits has waited."""
    readers: int | None = None
    """Members of the group that read it now."""


@runtime_checkable
class Checks(Protocol):
    """A broker that can look at its server before it is used, for ``txp doctor``."""

    async def check(self, topics: Sequence[str], group: str | None = None) -> Sequence[Finding]:
        """Look at the server, these topics and what the group needs to read them; nothing is made or changed.

        A server that does not answer is a finding of ``Severity.ERROR``, not an error that is raised.
        """


@runtime_checkable
class Measures(Protocol):
    """A broker that can tell how much waits for a group."""

    async def depths(self, topics: Sequence[str], group: str) -> Sequence[Depth]:
        """Give an entry for each queue or partition of these topics; a topic that is not there gives none.

        Raises:
            BrokerUnavailable: the server does not answer.
        """


UNORDERED = 'has order="strict", and this broker keeps no order: it would be kept up to the broker, and lost there.'
"""Why an event is refused; it follows its name."""
ORDER = 'Use a broker that keeps the order of a key (SQS: ordered=true), or leave order="strict" out.'

REPLAY = "txp-replay"
"""The header that numbers an operator's replays of a message: an adapter whose broker leaves out what it has seen
lately adds it to the id by which the broker knows the message."""

RESERVED_PREFIX = "txp-"
"""Headers under this prefix are the library's own; they are dropped when they come from outside."""

_ID, _TYPE, _CONTENT, _OCCURRED, _KEY = (
    "message-id",
    "message-type",
    "content-type",
    "occurred-at",
    "ordering-key",
)


def to_wire_headers(message: Message) -> dict[str, str]:
    """Give all headers that a broker message carries: the message's own and those that name it."""
    message_id, _, type_, _, key, headers, content_type, occurred_at = message
    named = {_ID: message_id, _TYPE: type_, _CONTENT: content_type, _OCCURRED: text_of_instant(occurred_at)}
    if key is not None:
        named[_KEY] = key
    return {**headers, **named} if headers else named


_second = (EPOCH, "1970-01-01T00:00:00")
"""The last second that was written, and its text; one name, because any thread may come by."""


def text_of_instant(instant: datetime) -> str:
    """Write an instant as ``isoformat`` does, and most of it once for each second: it costs as much as sending."""
    global _second  # noqa: PLW0603 - what is kept changes nothing but the time that it takes
    if instant.tzinfo is not UTC:
        return instant.isoformat()
    second, text = _second
    since = instant - second
    if since.days or since.seconds:
        second = instant.replace(microsecond=0)
        text = second.replace(tzinfo=None).isoformat()
        _second = (second, text)
    microsecond = instant.microsecond
    if not microsecond:
        return f"{text}+00:00"
    return "%s.%06d+00:00" % (text, microsecond)  # noqa: UP031 - a format specifier takes twice as long


class Place(str):
    """The id of a message that came without one: where the broker has it, for example topic/partition/offset."""

    __slots__ = ()


def from_wire(topic: str, payload: bytes, headers: Mapping[str, str], *, fallback_id: str) -> Message:
    """Make a message of what a broker gave: tolerant of producers that know nothing of this library.

    ``fallback_id`` names the message when it has no id of its own, for example by topic, partition and offset:
    it must be the same at each redelivery. A consumer prefers the id that a body may have; see ``named_by_place``.
    """
    rest = dict(headers)
    take = rest.pop
    message_id, type_, key = take(_ID, "") or Place(fallback_id), take(_TYPE, ""), take(_KEY, None)
    content_type, occurred_at = take(_CONTENT, "application/json"), _instant(take(_OCCURRED, ""))
    if rest:
        rest = {name: value for name, value in rest.items() if not name.startswith(RESERVED_PREFIX)}
    return Message(message_id, topic, type_, payload, key, rest, content_type, occurred_at)


def named_by_place(message: Message) -> str:
    """Give the id of a message that has none: its place, with a digest of what it says and when that was.

    The place alone is not enough: a topic that was deleted and made again has other messages in the same places.
    """
    digest = hashlib.blake2b(message.payload, digest_size=8)
    key = "" if message.key is None else f" {message.key}"
    digest.update(f" {message.occurred_at.isoformat()}{key}".encode(errors="surrogatepass"))
    return f"{message.id}~{digest.hexdigest()}"


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the first and last hours of the calendar do not exist in every zone
        return EPOCH
