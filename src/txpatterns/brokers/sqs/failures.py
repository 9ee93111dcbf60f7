"""What the errors of AWS mean for a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore import exceptions as aws

from txpatterns.errors import BrokerError, BrokerUnavailable, PublishRejected
from txpatterns.transport import Outcome, Verdict

AWAY = (aws.BotoCoreError, aws.ClientError, OSError)
"""All that a call of boto3 raises because of the other side or the way to it."""

_SERVERS_FAULT = 500
_NOT_SENT = (
    aws.EndpointConnectionError,
    aws.ConnectTimeoutError,
    aws.ProxyConnectionError,
    aws.SSLError,
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
)
_REFUSED_NOW = frozenset(
    (
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "Throttled",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "OverLimit",
        "SlowDown",
        "KmsThrottled",
        "KMSThrottling",
        "KMSThrottlingException",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "AuthFailure",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
        "RequestTimeTooSkewed",
    )
)
"""Too fast, or not accepted as who we say we are: the same for every topic, and nothing was stored."""

_MISSING = frozenset(("NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException"))
_OF_THE_TOPIC = _MISSING | frozenset(
    (
        "QueueDeletedRecently",
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "InvalidAddress",
        "KmsAccessDenied",
        "KmsDisabled",
        "KmsInvalidState",
        "KmsNotFound",
        "KmsOptInRequired",
        "KmsInvalidKeyUsage",
        "KMSAccessDenied",
        "KMSDisabled",
        "KMSInvalidState",
        "KMSNotFound",
        "KMSOptInRequired",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
    )
)
_OF_THE_MESSAGE = frozenset(
    (
        "InvalidMessageContents",
        "InvalidParameterValue",
        "InvalidParameter",
        "InvalidParameterException",
        "InvalidParameterValueException",
        "BatchRequestTooLong",
        "UnsupportedOperation",
        "MissingParameter",
    )
)


def code_of(error: BaseException) -> str:
    """Give AWS's short name of an error, without the name of its service; empty where it has none."""
    told: Mapping[str, Any] = getattr(error, "response", {}) or {}
    return str(told.get("Error", {}).get("Code", "")).rpartition(".")[2]


def is_of_topic(error: BaseException) -> bool:
    """Whether a topic or queue is missing, or not for us."""
    return code_of(error) in _OF_THE_TOPIC


def is_missing(error: BaseException) -> bool:
    """Whether a topic or queue is not there."""
    return code_of(error) in _MISSING


def is_throttled(error: BaseException) -> bool:
    """Whether the same would have been taken a little later."""
    return "hrottl" in code_of(error) or code_of(error) in {"RequestLimitExceeded", "TooManyRequestsException"}


def is_no_answer(error: BaseException) -> bool:
    """Whether AWS did not answer a request, or said no more than that something is wrong with AWS."""
    status = (getattr(error, "response", {}) or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return not isinstance(error, aws.ClientError) or status >= _SERVERS_FAULT


def describe(error: BaseException) -> str:
    """Say an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def unavailable(error: BaseException) -> BrokerUnavailable:
    """Give our own error for a broker that cannot be used now."""
    return BrokerUnavailable(f"SNS or SQS cannot be used now. {describe(error)}")


def outcome_of_lookup(error: BaseException, topic: str) -> Outcome:
    """Say what follows for a message whose topic could not be found: it was certainly not sent."""
    if is_of_topic(error):
        return Outcome(Verdict.POSTPONED, BrokerError(f"The topic {topic} takes nothing now. {describe(error)}"))
    return Outcome(Verdict.UNAVAILABLE, unavailable(error))


def outcome_of_request(error: BaseException, *, alone: bool) -> Outcome:
    """Say what follows for the messages of a request that failed as a whole."""
    if isinstance(error, _NOT_SENT):
        return Outcome(Verdict.UNAVAILABLE, unavailable(error))
    return _outcome(code_of(error), describe(error), permanent=alone)


def outcome_of_entry(entry: Mapping[str, Any]) -> Outcome:
    """Say what follows for one message that was refused while its neighbours may have been taken."""
    code, words = str(entry.get("Code", "")), str(entry.get("Message", ""))
    return _outcome(code.rpartition(".")[2], f"{code}: {words}", permanent=bool(entry.get("SenderFault")))


def _outcome(code: str, words: str, *, permanent: bool) -> Outcome:
    if code in _REFUSED_NOW or "hrottl" in code:
        return Outcome(Verdict.UNAVAILABLE, BrokerUnavailable(words))
    if code in _OF_THE_TOPIC:
        return Outcome(Verdict.POSTPONED, BrokerError(words))
    if permanent and code in _OF_THE_MESSAGE:
        return Outcome(Verdict.REJECTED, PublishRejected(words))
    return Outcome(Verdict.UNKNOWN, BrokerError(words))
