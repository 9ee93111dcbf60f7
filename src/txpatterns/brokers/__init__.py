"""Brokers, found by the scheme of a URL: ``memory://``, ``kafka://host:9092``, or one that somebody else wrote.

An adapter is an entry point of the group ``txpatterns.brokers``: a callable ``(url, **options) -> Broker`` under
the name of its scheme. It names the extra that brings its driver, where that is not called like the scheme.
``docs/how-to/write-a-broker-adapter.md`` shows a whole one.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from txpatterns.brokers.database import DatabaseBroker
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError, MissingExtra
from txpatterns.transport import Broker

GROUP = "txpatterns.brokers"

__all__ = ["GROUP", "broker_from_url", "given_broker", "known_schemes"]


def known_schemes() -> list[str]:
    """Give the schemes for which an adapter is registered, whether or not its driver is installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def broker_from_url(url: str, **options: Any) -> Broker:
    """Make the broker that a URL names; nothing is connected yet.

    Options are handed to the adapter as they are. No error that this function raises by itself repeats the URL,
    which may hold a password.

    Raises:
        MissingExtra: the adapter's driver is not installed; the text has the command that installs it.
        ConfigurationError: no adapter is registered for the scheme, or the adapter refuses the URL.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme.replace("+", "").replace("-", "").isalnum():
        raise ConfigurationError(
            "A broker's URL begins with a scheme and ://.", fix='For example: "memory://" or "kafka://localhost:9092".'
        )
    points = [point for point in entry_points(group=GROUP) if point.name == scheme]
    if not points:
        raise ConfigurationError(
            f"No broker adapter is registered for {scheme!r}.",
            fix=f"Use one of {', '.join(known_schemes())}, or install the package that provides {scheme!r}.",
        )
    return cast("Broker", _load(points[0])(url, **options))


def given_broker(given: object, database: Database) -> Broker:
    """Give the broker that an application names: by a URL, or as an object; ``database`` is the application's.

    Raises:
        ConfigurationError: it is none; or see ``broker_from_url``.
    """
    if isinstance(given, str):
        given = broker_from_url(given)
    if isinstance(given, DatabaseBroker):
        given.use(database)
    if isinstance(given, type) or not isinstance(given, Broker):
        raise ConfigurationError(
            f"{type(given).__name__} is no broker.",
            fix="Give a URL, or an object as docs/how-to/write-a-broker-adapter.md describes it.",
        )
    return given


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "txpatterns":
            raise
        distribution = point.dist.name if point.dist else "txpatterns"
        raise MissingExtra(
            f"The broker {point.name!r} needs {missing.name}, which is not installed.",
            fix=f"pip install '{distribution}[{','.join(point.extras) or point.name}]'",
        ) from missing
