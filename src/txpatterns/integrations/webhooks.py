"""Webhooks as Standard Webhooks 1.0 describes them: signed, fresh, and each with its effect once.

For any host: this module knows no web framework.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.app import App
from txpatterns.errors import WebhookRefused, WebhookSecretInvalid, WebhookUnreadable

logger = logging.getLogger("txpatterns.http")

ID, TIMESTAMP, SIGNATURE = HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
WINDOW = timedelta(minutes=5)
"""How far a webhook's time stamp may be from our clock, in both directions."""

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
_VARIED = 8
"""Of so many different bytes a secret has at least; a placeholder has fewer."""
_MOST_SIGNATURES = 8
_ID = re.compile(r"[!-\-/-~]{1,200}")  # no dot: what is signed is joined by dots
_STAMP = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
_NO_SIGNATURE = bytes(hashlib.sha256().digest_size)


def new_secret() -> str:
    """Make a secret for one sender and one receiver: 32 random bytes, as text behind ``whsec_``."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class Webhook:
    """One that was signed by who has the secret, and is fresh."""

    id: str
    """The same however often it is sent."""
    sent_at: datetime
    body: bytes
    """What was signed, byte for byte."""

    def json(self) -> Any:
        """Read the body.

        Raises:
            WebhookUnreadable: it is no JSON, or an object has a key twice, so that two readers could read two things.
        """
        try:
            return json.loads(self.body.decode(), object_pairs_hook=_each_once, parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise WebhookUnreadable from error


class WebhookSecrets:
    """One secret, or the new and the old one while they are exchanged: signs with all, takes what one has signed.

    Each is text behind ``whsec_``, or bytes. They show in no ``repr`` and in no error.

    Raises:
        WebhookSecretInvalid: a secret is none, too short or too long, a placeholder, or there is none at all.
    """

    def __init__(self, *given: str | bytes) -> None:
        if not given:
            raise WebhookSecretInvalid("There is no secret.")
        self._signers = [hmac.new(_key(each), digestmod=hashlib.sha256) for each in given]

    def sign(self, webhook_id: str, body: bytes, at: datetime | None = None) -> dict[str, str]:
        """Make the three headers of a webhook, for who sends it and for tests.

        Sent again, it has the same id and another ``at``, which is now if left out.

        Raises:
            ValueError: the id is not one of 1 to 200 printable ASCII characters without spaces and dots.
        """
        if not _ID.fullmatch(webhook_id):
            raise ValueError("a webhook's id is of 1 to 200 printable ASCII characters without spaces and dots")
        stamp = str(int((at or datetime.now(UTC)).timestamp()))
        signatures = (base64.b64encode(each).decode() for each in self._signatures(webhook_id, stamp, body))
        return {ID: webhook_id, TIMESTAMP: stamp, SIGNATURE: " ".join(f"v1,{each}" for each in signatures)}

    def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Webhook:
        """Check signature and time of a webhook, and give it.

        ``body`` are the bytes that came, not what a reader makes of them. Of ``headers`` the three are looked at,
        however they are spelt.

        Raises:
            WebhookRefused: always the same, whatever is wrong, and after the same work; the log says what it is.
        """
        found = {name.lower(): value for name, value in headers.items()}
        webhook_id, stamp = found.get(ID, ""), found.get(TIMESTAMP, "")
        is_named, is_stamped = _ID.fullmatch(webhook_id), _STAMP.fullmatch(stamp)
        sent_at = int(stamp) if is_stamped else 0
        is_fresh = abs(now.timestamp() - sent_at) <= WINDOW.total_seconds()
        is_signed = self._is_signed(webhook_id, stamp, body, found.get(SIGNATURE, ""))
        if not (is_named and is_stamped and is_fresh and is_signed):
            logger.warning("a webhook was refused: %s", _why(is_named, is_stamped, is_fresh))
            raise WebhookRefused
        return Webhook(webhook_id, datetime.fromtimestamp(sent_at, UTC), body)

    def _is_signed(self, webhook_id: str, stamp: str, body: bytes, header: str) -> bool:
        given = [_decoded(each) for each in header.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]]
        given += [_NO_SIGNATURE] * (_MOST_SIGNATURES - len(given))
        # All are compared with all, also behind one that fits: how long it takes says nothing.
        fits = [hmac.compare_digest(ours, each) for ours in self._signatures(webhook_id, stamp, body) for each in given]
        return any(fits)

    def _signatures(self, webhook_id: str, stamp: str, body: bytes) -> list[bytes]:
        signed = []
        for signer in self._signers:
            copy = signer.copy()
            copy.update(f"{webhook_id}.{stamp}.".encode(errors="replace"))
            copy.update(body)
            signed.append(copy.digest())
        return signed


class WebhookReceiver:
    """Takes the webhooks of one sender: verified with its secrets, and each with its effect once.

    ``sender`` names it in the inbox, as the consumer ``webhook:{sender}``. ``max_body`` is how many bytes a host reads.

    Raises:
        WebhookSecretInvalid: see ``WebhookSecrets``.
    """

    def __init__(self, app: App, sender: str, *given: str | bytes, max_body: int = 65_536) -> None:
        self.consumer = f"webhook:{sender}"
        self.max_body = max_body
        self._app = app
        self._secrets = WebhookSecrets(*given)

    def verify(self, body: bytes, headers: Mapping[str, str]) -> Webhook:
        """Check that a webhook is the sender's, and fresh by the App's clock.

        Sent again within five minutes it passes again: it is ``claim`` that tells.

        Raises:
            WebhookRefused: as ``WebhookSecrets.verify`` does.
        """
        return self._secrets.verify(body, headers, self._app.database.clock.now())

    def claim(self, session: Session, webhook: Webhook) -> bool:
        """Say whether this is the first time that it comes; if not, leave the effect out, and answer as the first time.

        It is remembered if, and only if, the transaction commits: then answer. ``settings.consumer.retention`` says for
        how long, which has to be longer than the sender goes on to send one again.

        Raises:
            IdReused: its id came with another body before.
            NotTransactional: the session commits each statement by itself.
        """
        return self._app.inbox.claim(session, self.consumer, webhook.id, hashlib.sha256(webhook.body).hexdigest())

    async def aclaim(self, session: AsyncSession, webhook: Webhook) -> bool:
        """Do what ``claim`` does, on an ``AsyncSession``."""
        return await session.run_sync(self.claim, webhook)


def _key(given: str | bytes) -> bytes:
    """Read a secret. What is raised must not hold any of it."""
    key = given
    if isinstance(key, str):
        try:
            text = key.removeprefix(_PREFIX)
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (ValueError, binascii.Error):
            raise WebhookSecretInvalid("The secret is no base64.") from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise WebhookSecretInvalid(f"The secret has {len(key)} bytes; it needs {_SHORTEST} to {_LONGEST}.")
    if len(set(key)) < _VARIED:
        raise WebhookSecretInvalid("The secret is a placeholder.")
    return key


def _decoded(signature: str) -> bytes:
    """Read a signature of the version that is known; what is none fits nothing."""
    version, _, text = signature.partition(",")
    try:
        digest = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return _NO_SIGNATURE
    return digest if version == "v1" and len(digest) == len(_NO_SIGNATURE) else _NO_SIGNATURE


def _why(is_named: object, is_stamped: object, is_fresh: bool) -> str:
    if not is_named:
        return "its id is missing or malformed"
    if not is_stamped:
        return "its time stamp is missing or malformed"
    return "no signature fits" if is_fresh else "its time stamp is too old or too new, or no signature fits"


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("an object has a key twice")
    return dict(pairs)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
