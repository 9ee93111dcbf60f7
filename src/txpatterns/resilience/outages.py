"""Which errors say that whoever was called is away, whichever client was used: nothing of them is imported."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

from txpatterns.causes import cause_of, members_of
from txpatterns.errors import BrokerUnavailable, ConfigurationError, HandlerSignal, NotBegun

_STANDARD = (
    ConnectionError,
    TimeoutError,
    EOFError,
    socket.gaierror,
    socket.herror,
    ssl.SSLZeroReturnError,
    ssl.SSLEOFError,
    RemoteDisconnected,
    IncompleteRead,
    HTTPException,
    BrokerUnavailable,
)
_OF_CLIENTS = frozenset(
    f"{package}.{name}"
    for package, names in {
        "httpx": ("TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"),
        "httpx2": ("TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"),
        "httpcore": ("TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"),
        "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
        "urllib.error": ("URLError",),
        "urllib3.exceptions": ("TimeoutError", "NewConnectionError", "ProtocolError", "MaxRetryError"),
        "aiohttp.client_exceptions": ("ClientConnectionError", "ClientPayloadError"),
        "redis.exceptions": ("ConnectionError", "TimeoutError"),
        "botocore.exceptions": ("ConnectionError", "HTTPClientError"),
    }.items()
    for name in names
)
_OF_GRPC = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN"})
_STATUSES = ("status_code", "status", "http_status")
_TOO_MANY = 429
_OWN_FAULTS = range(500, 600)
_MOST = 100
"""Errors looked at: a chain may be as long as a loop that went on failing."""


def is_outage(error: BaseException) -> bool:
    """Whether an error says that whoever was called is away, or overloaded: what a breaker should count.

    That are broken connections, names that do not resolve, time-outs, the HTTP statuses 5xx and 429, and of gRPC what
    means the same: of the standard library, with urllib, and of httpx, requests, urllib3, aiohttp, redis, botocore and
    grpc. It may stand inside of what is raised: in a group, or behind ``raise … from``. A ``Reject`` is an answer,
    whatever it was raised from.
    """
    found = list(_meant(error))
    return not any(isinstance(each, HandlerSignal) for each in found) and any(map(_says_so, found))


def was_not_made(error: BaseException) -> bool:
    """Whether an error says that the call was not made, so that nobody has answered: it was stopped by a guard."""
    return any(isinstance(each, (NotBegun, ConfigurationError)) for each in _meant(error))


def _meant(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < _MOST:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            cause = cause_of(each)
            waiting += [*members_of(each), *([] if cause is None else [cause])]


def _says_so(error: BaseException) -> bool:
    status = _status_of(error)
    if status is not None:
        return status == _TOO_MANY or status in _OWN_FAULTS
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return isinstance(error, _STANDARD) or not _OF_CLIENTS.isdisjoint(kinds) or _code_of(error) in _OF_GRPC


def _status_of(error: BaseException) -> int | None:
    """Give the status of an HTTP answer, by the names that the clients have for it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        metadata = response.get("ResponseMetadata")
        status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
        return status if isinstance(status, int) else None
    found = (getattr(place, name, None) for place in (response, error) for name in _STATUSES)
    return next((each for each in found if isinstance(each, int)), None)


def _code_of(error: BaseException) -> str | None:
    """Give the name of a gRPC status."""
    code = getattr(error, "code", None)
    try:
        return getattr(code(), "name", None) if callable(code) else None
    except Exception:  # noqa: BLE001 - of another library's error, which has something else by that name
        return None
