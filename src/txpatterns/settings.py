"""What an App can be told, by its constructor or by the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, TypedDict, get_type_hints

import sqlalchemy as sa

from txpatterns.checks import check_at_least
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError
from txpatterns.hooks import Hooks
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox.relay import RelaySettings
from txpatterns.retries import FailurePolicies
from txpatterns.sagas.settings import SagaSettings
from txpatterns.serialization import Codec
from txpatterns.tcc.settings import TccSettings
from txpatterns.text import is_secret

logger = logging.getLogger("txpatterns.settings")

PREFIX = "TXP_"
DATABASE_URL, BROKER_URL, LISTEN_URL = "TXP_DATABASE_URL", "TXP_BROKER_URL", "TXP_LISTEN_URL"
_READ_ELSEWHERE = frozenset((DATABASE_URL, BROKER_URL, "TXP_APP"))
_OF_TESTS = "TXP_TEST_"

_OF_PORT = re.compile(r"(.+?)_PORT(?:_\d+_(?:TCP|UDP|SCTP))?")
_OF_SERVICE = r"(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?|NAME)"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class AppOptions(TypedDict, total=False):
    """What an App is given by name; each may be left out."""

    metadata: sa.MetaData | None
    policies: FailurePolicies | None
    settings: AppSettings | None
    hooks: Sequence[Hooks]
    codec: Codec | None


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Everything about an App but its name, its two URLs and its failure policies.

    ``max_payload`` is the largest message in bytes, headers included. ``wakeups`` sends and hears ``NOTIFY`` on
    PostgreSQL, and on SQLite watches the file. ``listen_url`` names a direct connection for hearing where the database
    URL leads through a pooler.
    ``schema`` is that of the library's tables on PostgreSQL, if the search path or the metadata leads elsewhere.
    ``stop_within`` is how long a stop may take before what is under way is given up, to be done again later.
    """

    max_payload: int = 1_000_000
    wakeups: bool = True
    listen_url: str | None = field(default=None, repr=False)
    schema: str | None = None
    stop_within: timedelta = timedelta(seconds=30)
    relay: RelaySettings = field(default_factory=RelaySettings)
    consumer: ConsumerSettings = field(default_factory=ConsumerSettings)
    sagas: SagaSettings = field(default_factory=SagaSettings)
    tcc: TccSettings = field(default_factory=TccSettings)

    def __post_init__(self) -> None:
        check_at_least(1, self, "max_payload")
        check_at_least(timedelta(0), self, "stop_within")

    def consumer_with(self, policies: FailurePolicies) -> ConsumerSettings:
        """Give the consumer's settings with an App's failure policies, unless it has some of its own."""
        has_own = self.consumer.policies != FailurePolicies()
        return self.consumer if has_own else replace(self.consumer, policies=policies)

    def refuse_unlike(self, database: Database) -> None:
        """Refuse a database that was made without what these settings say of it.

        Raises:
            ConfigurationError: names what would have no effect.
        """
        given = {"listen_url": (self.listen_url, database.listen_url), "schema": (self.schema, database.home.schema)}
        for name, (wanted, there) in given.items():
            if wanted is not None and wanted != there:
                raise ConfigurationError(
                    f"{name} is set, and the Database that the App was given does not have it.",
                    fix=f"Give it there: Database(..., {name}=...), and leave {PREFIX}{name.upper()} out.",
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> AppSettings:
        """Read the settings from ``TXP_…`` variables; what is not there keeps its default.

        A ``TXP_…`` variable that is none is told in the log.

        Raises:
            ConfigurationError: a value cannot be read or is out of range, or the name of a variable that begins
                like those of the relay, the consumer, the sagas or TCC is no setting's.
        """
        given = os.environ if environment is None else environment
        known = {variable.name: variable for variable in variables()}
        _look_for_others(given, known)
        settings = cls()
        for name, variable in known.items():
            if given.get(name):
                settings = variable.put(settings, given[name])
        return settings


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting as a variable of the environment."""

    name: str
    part: str | None
    attribute: str
    kind: type
    default: object

    def read(self, text: str) -> object:
        """Make the value of a text. Raises ConfigurationError, without the text where it may be a secret."""
        try:
            return _READERS[self.kind](text.strip())
        except ValueError as error:
            shown = "its value" if is_secret(self.name) or "URL" in self.name else repr(text)
            raise ConfigurationError(f"{self.name}: {shown} is no {_NAMES[self.kind]}.", fix=self._example) from error

    def put(self, settings: AppSettings, text: str) -> AppSettings:
        """Give the settings with this one read from a text. Raises ConfigurationError, which names the variable."""
        change: dict[str, Any] = {self.attribute: self.read(text)}
        try:
            if self.part is not None:
                change = {self.part: replace(getattr(settings, self.part), **change)}
            return replace(settings, **change)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.name}: {error.message}", fix=self._example) from None

    @property
    def _example(self) -> str:
        return f"For example: {self.name}={_EXAMPLES[self.kind]}"

    def value_in(self, settings: AppSettings) -> object:
        """Give the value that an App has for it."""
        return getattr(settings if self.part is None else getattr(settings, self.part), self.attribute)


def _look_for_others(given: Mapping[str, str], known: Iterable[str]) -> None:
    """Tell of variables that look like settings and are none: most likely they are mistyped."""
    for name in sorted(set(given).difference(known, _of_services(given))):
        if name.startswith(("TXP_RELAY_", "TXP_CONSUMER_", "TXP_SAGAS_", "TXP_TCC_")):
            raise ConfigurationError(f"{name} is no setting.", fix="See: txp config show")
        if name.startswith(PREFIX) and name not in _READ_ELSEWHERE and not name.startswith(_OF_TESTS):
            logger.warning("%s is no setting and does nothing; see: txp config show", name)


def _of_services(given: Mapping[str, str]) -> set[str]:
    """Give the variables that Kubernetes, or a link of Docker's, sets for services whose names begin like ours."""
    services = {name.removesuffix("_SERVICE_HOST") for name in given if name.endswith("_SERVICE_HOST")}
    services |= {found[1] for name, value in given.items() if "://" in value and (found := _OF_PORT.fullmatch(name))}
    patterns = [re.compile(rf"{re.escape(service)}_{_OF_SERVICE}") for service in services]
    return {name for name in given if any(pattern.fullmatch(name) for pattern in patterns)}


def variables() -> Iterator[Variable]:
    """List the settings that the environment can give, but for the two URLs."""
    yield from _variables(AppSettings, None)
    yield from _variables(RelaySettings, "relay")
    yield from _variables(ConsumerSettings, "consumer")
    yield from _variables(SagaSettings, "sagas")
    yield from _variables(TccSettings, "tcc")


def _variables(settings: type, part: str | None) -> Iterator[Variable]:
    hints = get_type_hints(settings)
    for item in fields(settings):
        kinds = getattr(hints[item.name], "__args__", (hints[item.name],))
        kind = next((kind for kind in kinds if kind in _READERS), None)
        if kind is not None:
            prefix = PREFIX if part is None else f"{PREFIX}{part.upper()}_"
            yield Variable(prefix + item.name.upper(), part, item.name, kind, _default(item))


def _default(item: Field[Any]) -> object:
    return None if item.default is MISSING else item.default


def from_environment(variable: str, default: str) -> str:
    """Give what the environment says, else the default."""
    return os.environ.get(variable) or default


def source_of(given: object | None, variable: str) -> str:
    """Say where a value comes from: ``constructor``, ``environment`` or ``default``."""
    if given is not None:
        return "constructor"
    return "environment" if os.environ.get(variable) else "default"


def shown(value: object) -> str:
    """Give a setting's value as it would be written into the environment."""
    if isinstance(value, timedelta):
        return duration_text(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def duration_text(value: timedelta) -> str:
    """Write a duration as the environment takes it: 500ms, 30s, 14d."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return timedelta(**{_UNITS[found[2] or "s"]: float(found[1])})


def _boolean(text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError(text)
    return _SWITCHES[text.lower()]


_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_READERS: dict[type, Callable[[str], object]] = {int: int, bool: _boolean, str: str, timedelta: _duration}
_NAMES: dict[type, str] = {int: "whole number", bool: "true or false", str: "text", timedelta: "duration"}
_EXAMPLES: dict[type, str] = {int: "500", bool: "true", str: "text", timedelta: "30s"}
