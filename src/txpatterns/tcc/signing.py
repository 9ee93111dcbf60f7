"""Signing requests between a coordinator and a participant, with a secret that both know."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from time import time

from txpatterns.errors import ConfigurationError

HEADER = "x-txp-signature"
WINDOW = timedelta(minutes=5)
"""How old a signature may be. A request that is replayed within it finds the barrier, and does nothing twice."""
_LEAST = 16

Authenticate = Callable[[str, Mapping[str, str], bytes], bool]
"""Says whether a request may be served: what is asked for (``stock/try``), its headers in lower case, its body."""


def checked_secret(secret: str) -> bytes:
    """Give a secret as bytes.

    Raises:
        ConfigurationError: it is too short to be one.
    """
    if len(secret) < _LEAST:
        raise ConfigurationError(
            f"A secret of {len(secret)} characters can be guessed.",
            fix='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))", and set it on both sides.',
        )
    return secret.encode()


def signature(secret: bytes, what: str, body: bytes, moment: int | None = None) -> str:
    """Sign what is asked for, a request's body and the time."""
    at = int(time()) if moment is None else moment
    digest = hmac.new(secret, f"{at}\n{what}\n".encode() + body, sha256).hexdigest()
    return f"t={at},v1={digest}"


def signed_by(*secrets: str) -> Authenticate:
    """Make an ``authenticate=`` that serves requests signed with one of these secrets, a new and an older one.

    A signature is good for five minutes, and only for what it was made for.

    Raises:
        ConfigurationError: there is none, or one is too short.
    """
    if not secrets:
        raise ConfigurationError("signed_by() was given no secret.")
    known = [checked_secret(secret) for secret in secrets]

    def authenticate(what: str, headers: Mapping[str, str], body: bytes) -> bool:
        given = headers.get(HEADER, "")
        stamp = given.partition(",")[0].removeprefix("t=")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= len(str(2**63))):
            return False
        if abs(time() - int(stamp)) > WINDOW.total_seconds():
            return False
        wanted = [signature(secret, what, body, int(stamp)) for secret in known]
        return any(hmac.compare_digest(each.encode(), given.encode()) for each in wanted)

    return authenticate
