"""Refresh tokens. Each is derived from its session and its number, by a secret that no table holds.

So the same exchange, asked for twice, gives the same successor, although only digests are stored.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence


class RefreshTokens:
    """Makes refresh tokens.

    Args:
        secrets: The first one makes the new ones; the others know those that were made before.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = tuple(secrets)

    def make(self, session_id: str, generation: int) -> str:
        """Give the token of a session that has this number."""
        return _derived(self._secrets[0], session_id, generation)

    def again(self, session_id: str, generation: int, digest: str) -> str | None:
        """Give a token that was made before; None if its secret has gone."""
        made = (_derived(secret, session_id, generation) for secret in self._secrets)
        return next((token for token in made if digest_of(token) == digest), None)


def digest_of(token: str) -> str:
    """Give what is stored of a token. It has 256 bits that nobody guesses, so a plain digest is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def _derived(secret: str, session_id: str, generation: int) -> str:
    mac = hmac.digest(secret.encode(), f"refresh:{session_id}:{generation}".encode(), "sha256")
    return urlsafe_b64encode(mac).rstrip(b"=").decode()
