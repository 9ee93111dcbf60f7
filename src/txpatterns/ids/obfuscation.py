"""Ids for the outside: they tell neither how many there are nor which comes next.

A keyed permutation of the 64-bit numbers: a Feistel network of twelve rounds over keyed BLAKE2b. It hides ids from who
has no key. It is no proof of anything: whoever was given an id can show it, so what may be done with it is decided
elsewhere.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Any

from pydantic import PlainSerializer, PlainValidator

from txpatterns.errors import ConfigurationError, IdInvalid
from txpatterns.ids.layout import LAST_ID, checked

_LEAST_KEY = 16
_ROUNDS = 12
_HALF = (1 << 32) - 1
_LENGTH = 13
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: none of them is taken for another one when it is read aloud."""
_READ_AS = str.maketrans("ilo", "110")


class Obfuscator:
    """Turns ids into texts of 13 letters and digits, and back, by a secret key of at least 16 bytes.

    ``kind`` makes another permutation of each kind of id under one key, so that a text of an order is none of a cart.
    All processes need the same key, for ever: without it no text leads back to its id. It is never shown by anything
    here.

    Raises:
        ConfigurationError: the key is too short.
    """

    def __init__(self, key: bytes | str, kind: str = "") -> None:
        secret = key.encode() if isinstance(key, str) else bytes(key)
        if len(secret) < _LEAST_KEY:
            raise ConfigurationError(
                f"The key of the obfuscator has {len(secret)} bytes, and needs {_LEAST_KEY}.",
                fix='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
        derived = blake2b(kind.encode(), key=blake2b(secret).digest(), person=b"txpatterns ids").digest()
        self._rounds = [blake2b(bytes([number]), key=derived, digest_size=4) for number in range(_ROUNDS)]
        self.kind = kind

    def hide(self, id: int) -> str:
        """Give the text of an id. Raises IdInvalid for what is no id."""
        left, right = checked(id) >> 32, id & _HALF
        for number in range(_ROUNDS):
            left, right = right, left ^ self._mixed(number, right)
        value = left << 32 | right
        return "".join(_DIGITS[value >> 5 * place & 31] for place in reversed(range(_LENGTH)))

    def reveal(self, text: str) -> int:
        """Give the id of a text; capitals, and letters that look like digits, are read as they are meant.

        Raises:
            IdInvalid: the text is none of this key and kind. Half of all made-up texts are not noticed: they lead to
                ids that nothing has.
        """
        value = self._number(text)
        left, right = value >> 32, value & _HALF
        for number in reversed(range(_ROUNDS)):
            left, right = right ^ self._mixed(number, left), left
        id_ = left << 32 | right
        if id_ > LAST_ID:
            raise _no_id()
        return id_

    @cached_property
    def outgoing(self) -> PlainSerializer:
        """For a pydantic field of what is given out: ``Annotated[int, orders.outgoing]`` is a text in JSON."""
        return PlainSerializer(self.hide, return_type=str, when_used="json")

    @cached_property
    def incoming(self) -> PlainValidator:
        """For a field or parameter of what comes in: ``Annotated[int, orders.incoming]`` takes a text, never an id."""
        return PlainValidator(self._read, json_schema_input_type=str)

    def _read(self, given: Any) -> int:
        if not isinstance(given, str):
            raise _no_id()
        return self.reveal(given)

    def _mixed(self, number: int, half: int) -> int:
        digest = self._rounds[number].copy()
        digest.update(half.to_bytes(4))
        return int.from_bytes(digest.digest())

    def _number(self, text: str) -> int:
        if len(text) != _LENGTH or not text.isascii():
            raise _no_id()
        value = 0
        for letter in text.lower().translate(_READ_AS):
            place = _DIGITS.find(letter)
            if place < 0:
                raise _no_id()
            value = value << 5 | place
        if value >> 64:
            raise _no_id()
        return value

    def __repr__(self) -> str:
        return f"Obfuscator(kind={self.kind!r})"


def _no_id() -> IdInvalid:
    return IdInvalid("This text stands for no id.", fix="Give the text as it was given out.")
