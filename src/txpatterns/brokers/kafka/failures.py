"""What the driver's errors mean for a message."""

# ruff: noqa: SLF001 - the driver's public names for its local errors begin with an underscore

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from txpatterns.errors import BrokerError, BrokerUnavailable, PublishRejected

PERMANENT = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    )
)
"""What no repetition mends, if it is the message's own error and not that of a neighbour in its batch."""

TOPIC_MISSING = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION))
"""Somebody may still make it, or make it again."""

AWAY = frozenset(
    (
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._NODE_UPDATE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
    )
)
"""Nobody answered a question."""

REFUSED_CLIENT = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )
)
"""Password, certificate or rights are not accepted."""

ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN


def error_of(raised: KafkaException) -> KafkaError:
    """Give the driver's error inside its exception."""
    found = raised.args[0] if raised.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(raised))


def group_unclear() -> KafkaException:
    """Make the error for a group that changed in the middle of one read."""
    return KafkaException(KafkaError(KafkaError._STATE, "the group changed twice within one read"))


def describe(error: KafkaError) -> str:
    """Say an error in one line: the driver's name for it, and its words."""
    return f"{error.name()}: {error.str()}"


def ends_intake(error: KafkaError) -> bool:
    """Whether a consumer can do nothing more by itself."""
    return bool(error.fatal()) or error.code() in REFUSED_CLIENT


def translated(error: KafkaError, *, what: str) -> BrokerError:
    """Give our own error for one of the driver's."""
    text = f"{what}: {describe(error)}"
    if error.code() in AWAY:
        return BrokerUnavailable(text)
    return PublishRejected(text) if error.code() in PERMANENT else BrokerError(text)
