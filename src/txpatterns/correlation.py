"""Which message belongs to which story: the headers that join what was caused by one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from txpatterns.messages import Message, new_id

CORRELATION_ID, CAUSATION_ID = "correlation-id", "causation-id"

_lineage: ContextVar[Mapping[str, str]] = ContextVar("txpatterns_lineage", default=MappingProxyType({}))


@contextmanager
def correlated(correlation_id: str) -> Iterator[str]:
    """Store this correlation id with every message that is added inside, for example a request's own id.

    Yields the id as it is stored: printable ASCII, at most 128 characters, a new one when nothing of the given id
    remains, so that a stranger's id never fails a transaction. A handler needs no call: see ``caused_by``.
    """
    clean = _header_safe(correlation_id) or new_id()
    with _lineage_set({CORRELATION_ID: clean}):
        yield clean


@contextmanager
def caused_by(message: Message) -> Iterator[None]:
    """Store with every message that is added inside that this one has caused it: a handler runs in it."""
    with _lineage_set(lineage_of(message)):
        yield


@contextmanager
def caused_by_none() -> Iterator[None]:
    """Let every message that is added inside begin a story: what comes from several messages comes from no one."""
    with _lineage_set({}):
        yield


def current_lineage() -> Mapping[str, str]:
    """Give the headers of what is added here."""
    return _lineage.get()


def lineage_of(message: Message) -> dict[str, str]:
    """Give the headers of what is added while this message is handled: the same correlation id, its id as the cause.

    Whatever a stranger wrote into the message, these can be stored and sent.
    """
    return lineage_from(correlation_id_of(message), message.id)


def lineage_from(correlation_id: str, cause: str) -> dict[str, str]:
    """Give the headers of what belongs to this story and was caused by something with this id."""
    told = {CORRELATION_ID: _header_safe(correlation_id), CAUSATION_ID: _header_safe(cause)}
    return {name: value for name, value in told.items() if value}


def correlation_id_of(message: Message) -> str:
    """Give the id that joins all messages of one story: that of the message which began it, if none was given."""
    return message.headers.get(CORRELATION_ID) or message.id


@contextmanager
def _lineage_set(headers: Mapping[str, str]) -> Iterator[None]:
    token = _lineage.set(headers)
    try:
        yield
    finally:
        _lineage.reset(token)


def _header_safe(text: str) -> str:
    if text.isascii() and text.isprintable() and " " not in text:
        return text[:128]
    return "".join(c for c in text if "!" <= c <= "~")[:128]
