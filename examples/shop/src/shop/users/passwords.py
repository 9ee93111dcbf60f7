"""Passwords: hashed with Argon2id, and those that came hashed with bcrypt or weaker parameters are hashed anew."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher
from typing_extensions import override

from shop.problems import Problem
from txpatterns.errors import BulkheadFull
from txpatterns.resilience import Bulkhead

T = TypeVar("T")

AT_ONCE = 2
"""Hashes that are made at the same moment: each takes 64 MiB, and a core."""
PATIENCE = timedelta(seconds=3)
BCRYPT_READS = 72
"""Bytes of a password that bcrypt has ever looked at."""


class _Bcrypt(BcryptHasher):
    """Verifies what older programs stored: they cut what was longer, where today's library refuses it."""

    @override
    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        given = password.encode() if isinstance(password, str) else password
        return super().verify(given[:BCRYPT_READS], hash)


class Passwords:
    """Makes and checks hashes, in threads, a few at once: a crowd at the door must not take the whole machine.

    Raises, from every method:
        Problem: ``unavailable`` when too many wait already.
    """

    def __init__(self, hashers: PasswordHash | None = None) -> None:
        self._hashers = hashers or PasswordHash((Argon2Hasher(), _Bcrypt()))
        self._door = Bulkhead("passwords", at_once=AT_ONCE, wait=PATIENCE)

    async def hash(self, password: str) -> str:
        """Give a new hash."""
        return await self._aside(lambda: self._hashers.hash(password))

    async def check(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Say whether a password is right, and give a new hash where the stored one is not up to date.

        Without a stored hash the answer is no, after the same work: how long it takes tells nobody who has an account.
        """
        return await self._aside(lambda: self._checked(password, stored))

    def _checked(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        nobodys = self._nobodys  # also where it is not needed: whoever comes first would wait for it
        try:
            return self._hashers.verify_and_update(password, stored or nobodys)
        except UnknownHashError:
            return False, None

    @cached_property
    def _nobodys(self) -> str:
        return self._hashers.hash(secrets.token_urlsafe())

    async def _aside(self, work: Callable[[], T]) -> T:
        try:
            async with self._door:
                return await asyncio.to_thread(work)
        except BulkheadFull as error:
            raise Problem("unavailable", "Too many sign in at this moment.") from error
