"""Access tokens: signed, short-lived, and read without asking anybody. The users' service makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from shop.problems import Problem

ALGORITHM = "HS256"
ISSUER = "shop-users"
AUDIENCE = "shop"
CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp"]
LEEWAY = timedelta(seconds=5)
"""How far the clocks of two machines may differ."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whom an access token is about: their account, and the session that it belongs to."""

    user_id: str
    session_id: str


class AccessTokens:
    """Makes and reads access tokens.

    Args:
        secrets: Each of 32 bytes or more. The first one signs; the others are still believed, while they are exchanged.
        last: How long a token is good. Until then nobody can take it back.
    """

    def __init__(self, secrets: Sequence[str], last: timedelta) -> None:
        self._secrets = tuple(secrets)
        self.last = last

    def issue(self, who: SignedIn) -> str:
        """Make a token."""
        now = datetime.now(UTC)
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": who.user_id, "sid": who.session_id, "iat": now}
        return jwt.encode(claims | {"exp": now + self.last}, self._secrets[0], ALGORITHM)

    def read(self, token: str) -> SignedIn:
        """Give whom a token is about.

        Raises:
            Problem: ``unauthenticated`` for one that we did not sign, is for somebody else, or has run out.
        """
        for secret in self._secrets:
            try:
                # The algorithm is ours to choose: a token that names another one, or none, is refused.
                claims = jwt.decode(
                    token,
                    secret,
                    algorithms=[ALGORITHM],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    leeway=LEEWAY,
                    options={"require": CLAIMS},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidTokenError as error:
                raise Problem("unauthenticated", "The access token is not valid, or no longer.") from error
            return SignedIn(str(claims["sub"]), str(claims["sid"]))
        raise Problem("unauthenticated", "The access token is not valid, or no longer.")
