"""What others wrote, made fit to be shown or stored: short, without hidden characters, without secrets."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import unquote_plus

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that move the cursor, turn the reading direction, or show nothing at all."""

_WORDS = r"(?i:pass|secret|token|credential|(?:api|private).?key|key\.pem|oauthbearer\.config)"
_SECRET_NAME = re.compile(_WORDS)
_SECRET_VALUE = re.compile(rf"({_WORDS}[\w.-]{{0,50}}[\"']?\s{{0,5}}[=:]\s{{0,5}})\S+")
_USER = re.compile(r"^[^:/]*:(?!//)|://[^:/]*:")


def is_secret(name: str) -> bool:
    """Say whether a parameter, option or variable of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def masked(url: str) -> str:
    """Give a URL without its password, and without the values of parameters that look like secrets, or name one."""
    address, mark, query = _without_password(url).partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")]
    shown = (f"{n}=***" if is_secret(unquote_plus(n + sign + value)) else n + sign + value for n, sign, value in pairs)
    return address + mark + "&".join(shown)


def without_secrets(text: str) -> str:
    """Give a text without the passwords of URLs in it, and without what follows a word that announces a secret."""
    return _SECRET_VALUE.sub(r"\1***", re.sub(r"\S+", lambda word: _without_password(word[0]), text))


def _without_password(address: str) -> str:
    # Up to the last at sign, because some let a slash, a question mark or another at sign stand in a password.
    user, at = _USER.search(address), address.rfind("@")
    if user is None or at < user.end():
        return address
    return f"{address[: user.end()]}***{address[at:]}"


def one_line(text: str, limit: int = 200) -> str:
    """Escape line ends, terminal sequences and direction marks, and cut what is longer than ``limit`` characters."""
    cut = text[:limit]
    if not cut.isascii() or not cut.isprintable():
        cut = "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN else c for c in cut)
    return cut if len(text) <= limit else cut + "…"


def storable(text: str, longest: int | None = None) -> str:
    """Give a text as a database can hold it: without NUL or half of a surrogate pair, and not too long.

    What is changed ends with a digest of what it was, so that two of them stay two.
    """
    if text.isascii() and "\x00" not in text and (longest is None or len(text) <= longest):
        return text
    clean = text.replace("\x00", "\ufffd").encode(errors="replace").decode()
    if clean == text and (longest is None or len(text) <= longest):
        return text
    ending = "~" + hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return (clean if longest is None else clean[: longest - len(ending)]) + ending


def error_line(error: BaseException | str | None, limit: int = 200) -> str:
    """Say in one line what went wrong.

    Only the first line of the error's text is used: drivers and pydantic put parameters, rows and inputs,
    which may be personal data, into the lines that follow.
    """
    if error is None:
        return "no reason given"
    text = error if isinstance(error, str) else _told_by(error)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if isinstance(error, str):
        return one_line(first, limit)
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__, limit)


def _told_by(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:  # noqa: BLE001 - of an application's class, which may fail at telling what went wrong
        return f"(which cannot be told: {type(failed).__name__})"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
