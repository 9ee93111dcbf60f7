"""The shop's secrets: given in the environment, or made once and kept where only the owner reads them."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from shop.given import SettingsError
from txpatterns.errors import ConfigurationError, WebhookSecretInvalid
from txpatterns.ids import Obfuscator
from txpatterns.integrations.webhooks import WebhookSecrets, new_secret

SECRETS = {
    "cookie": "SHOP_COOKIE_SECRET",
    "webhook": "SHOP_WEBHOOK_SECRET",
    "ids": "SHOP_ID_KEY",
    "token": "SHOP_TOKEN_SECRET",
}
MADE: Mapping[str, Callable[[], str]] = {
    "cookie": secrets.token_urlsafe,
    "webhook": new_secret,
    "ids": secrets.token_urlsafe,
    "token": partial(secrets.token_urlsafe, 48),
}
"""What makes each of them."""
SHORTEST_SECRET = 32


def read_secrets(data: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets, or make those that are missing once and keep them where only the owner reads.

    Raises:
        SettingsError: one that was given protects nothing.
    """
    given = {name: env[setting] for name, setting in SECRETS.items() if env.get(setting)}
    _check_secrets(given)
    return given if given.keys() == SECRETS.keys() else _kept_secrets(data) | given


def _check_secrets(given: Mapping[str, str]) -> None:
    """Refuse what protects nothing; no secret is shown."""
    if "webhook" in given:
        try:
            WebhookSecrets(given["webhook"])
        except WebhookSecretInvalid as error:
            raise SettingsError(f"{SECRETS['webhook']}: {error.message} {error.remedy}") from None
    if "ids" in given:
        try:
            Obfuscator(given["ids"])
        except ConfigurationError as error:
            raise SettingsError(f"{SECRETS['ids']}: {error.message} {error.remedy}") from None


def _kept_secrets(data: Path) -> dict[str, str]:
    data.mkdir(parents=True, exist_ok=True)
    file = data / "secrets.json"
    with (data / "secrets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several services may start on one folder
        kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        made = {name: make() for name, make in MADE.items() if name not in kept}
        if made:  # a folder may be older than one of its secrets
            kept |= made
            fresh = file.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as out:
                json.dump(kept, out)
            fresh.replace(file)
    return kept


def read_id_key(data: Path, env: Mapping[str, str]) -> str:
    """Give what it takes to read the ids of orders as they are shown. Raises SettingsError: it is too short."""
    return read_secrets(data, env)["ids"]


def token_secrets_in(given: str) -> tuple[str, ...]:
    """Give what makes tokens: the first one does, the others are still believed. Raises SettingsError."""
    found = tuple(given.split())
    if not found or any(len(secret.encode()) < SHORTEST_SECRET for secret in found):
        raise SettingsError(
            f"SHOP_TOKEN_SECRET must be a secret of {SHORTEST_SECRET} bytes or more, or several with spaces between: "
            "the first one signs, the others are still believed. Make one: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    return found
