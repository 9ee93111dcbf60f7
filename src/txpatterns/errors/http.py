"""Errors of HTTP: requests that are refused, with the status that says so, and answers that cannot be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar

from txpatterns.errors.base import TxPatternsError
from txpatterns.errors.setup import ConfigurationError


class RequestRefused(TxPatternsError):
    """The request is not answered as it is."""

    code = "TXP-2000"
    status: ClassVar[int] = 400
    """Of the answer that says so."""
    title: ClassVar[str] = "Request refused"
    """What is refused, the same each time."""

    def __init__(self, message: str | None = None, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """What the answer's head says besides: when to come again, where that is known, in whole seconds."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after.total_seconds())))}


class KeyMissing(RequestRefused):
    """This operation needs an Idempotency-Key."""

    code = "TXP-2001"
    title = "Idempotency-Key is missing"
    fix = "Send a header Idempotency-Key with a new UUID for each new wish, and the same one when you send it again."


class KeyInvalid(RequestRefused):
    """The Idempotency-Key cannot be read."""

    code = "TXP-2002"
    title = "Idempotency-Key is malformed"
    fix = "Send one header with one key, of 1 to 200 printable ASCII characters, without spaces or in double quotes."


class KeyReused(RequestRefused):
    """This Idempotency-Key came with another request."""

    code = "TXP-2003"
    status = 422
    title = "Idempotency-Key is already used"
    fix = "Send a new key with each new request; a repeat is the same request, byte for byte."


class KeyInUse(RequestRefused):
    """The first request with this Idempotency-Key is not answered yet."""

    code = "TXP-2004"
    status = 409
    title = "A request is outstanding for this Idempotency-Key"
    fix = "Send the same request again after the seconds that Retry-After names."


class WebhookRefused(RequestRefused):
    """The webhook is not signed as it has to be."""

    code = "TXP-2005"
    status = 401
    title = "Signature refused"
    fix = "Compare secret and clock with the sender's; the receiver's log has the reason."


class WebhookUnreadable(RequestRefused):
    """The webhook's body is not the JSON that it should be."""

    code = "TXP-2006"
    title = "Webhook unreadable"
    fix = "Send one JSON value in UTF-8 that has each key of an object once."


class BodyTooLarge(RequestRefused):
    """The request's body is larger than this operation takes."""

    code = "TXP-2007"
    status = 413
    title = "Content too large"
    fix = "Send less, or let the receiver raise its limit."


class AnswerNotKept(TxPatternsError):
    """The answer to a request with a key cannot be kept, so a repeat could not be given it."""

    code = "TXP-2008"
    fix = "Answer with less, for example with a reference; raise max_answer; and do not stream it."


class TurnLost(TxPatternsError):
    """Another request with the same key has taken over, because this one was not answered within its lease."""

    code = "TXP-2009"
    fix = (
        "Nothing to do: what this one did in its transaction is rolled back. Let the lease be longer than any request."
    )


class WebhookSecretInvalid(ConfigurationError):
    """A webhook's secret is not one that can be used."""

    code = "TXP-2010"
    fix = "Take 24 to 64 random bytes in base64, behind whsec_: txpatterns.integrations.webhooks.new_secret()."


class PrincipalMissing(ConfigurationError):
    """Nobody says whose Idempotency-Key this is, so one user could be given another one's answer."""

    code = "TXP-2011"
    fix = "Let principal= give the id of the user whom you have authenticated; a constant where all are one user."
