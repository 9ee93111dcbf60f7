"""Choosing dead letters by what they are: ``topic:orders type:order.* error:*timeout*``."""

from __future__ import annotations

import shlex

import sqlalchemy as sa

from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.errors import ConfigurationError

_dead = dead_letter_table.c
NAMES = {
    "topic": _dead.topic,
    "type": _dead.type,
    "key": _dead.key,
    "consumer": _dead.consumer,
    "reason": _dead.reason,
    "error": _dead.error,
    "message": _dead.message_id,
}
NOBODY = "-"
"""Stands for no key, and as a consumer for messages that could not be published."""

_EXAMPLE = "Write, for example: --matching 'topic:order-events error:*timeout*'; for all of them: --matching 'topic:*'"


def conditions_of(text: str) -> list[sa.ColumnElement[bool]]:
    """Read what dead letters must be like: ``name:value`` words, all of which must fit.

    A ``*`` stands for any text, and with it capitals count as small letters. A value with spaces is quoted.

    Raises:
        ConfigurationError: there is no such name, or no word at all.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} cannot be read: {error}.", fix=_EXAMPLE) from error
    if not words:
        raise ConfigurationError("Nothing is said of what to match.", fix=_EXAMPLE)
    return [_condition(word) for word in words]


def message_is(message_id: str) -> list[sa.ColumnElement[bool]]:
    """Say that a dead letter is of this message."""
    return [_dead.message_id == message_id]


def _condition(word: str) -> sa.ColumnElement[bool]:
    name, colon, value = word.partition(":")
    column = NAMES.get(name)
    if not colon or not value or column is None:
        raise ConfigurationError(f"{word!r} is no NAME:VALUE; the names are {', '.join(NAMES)}.", fix=_EXAMPLE)
    if value == NOBODY and name in ("consumer", "key"):
        return column.is_(None)
    if "*" not in value:
        return column == value
    pattern = "".join({"*": "%", "%": "/%", "_": "/_", "/": "//"}.get(letter, letter) for letter in value)
    return column.ilike(pattern, escape="/")
