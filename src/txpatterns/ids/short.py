"""Short texts for ids, by Sqids: ``pip install 'txpatterns[ids]'``."""

from __future__ import annotations

from txpatterns.errors import ConfigurationError, IdInvalid, MissingExtra
from txpatterns.ids.layout import LAST_ID, checked

try:
    from sqids import Sqids
except ImportError as missing:
    raise MissingExtra("Sqids is not installed.", fix="pip install 'txpatterns[ids]'") from missing


class ShortIds:
    """Turns ids into short texts that look mixed, and back.

    It hides nothing: whoever knows the alphabet, or tries for a while, finds the id. It is for addresses that should be
    short and free of bad words. Where ids must not be guessed, take `Obfuscator`.

    Raises:
        ConfigurationError: the alphabet is too short or has a letter twice.
    """

    def __init__(self, alphabet: str | None = None, *, min_length: int = 0) -> None:
        options = {} if alphabet is None else {"alphabet": alphabet}
        try:
            self._sqids = Sqids(min_length=min_length, **options)  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigurationError(f"Sqids refuses this: {error}", fix="Give another alphabet or length.") from error

    def hide(self, id: int) -> str:
        """Give the text of an id. Raises IdInvalid for what is no id."""
        return self._sqids.encode([checked(id)])

    def reveal(self, text: str) -> int:
        """Give the id of a text, of which there is one. Raises IdInvalid for any other text."""
        found = self._sqids.decode(text)
        if len(found) != 1 or found[0] > LAST_ID or self._sqids.encode(found) != text:
            raise IdInvalid("This text stands for no id.", fix="Give the text as it was given out.")
        return found[0]
